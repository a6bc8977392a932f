//! From an archive's entries to an image's.

use std::io::{self, BufReader, Read, Seek, Write};

use erofs::{Layer, Special, shown};
use wire::unpack::{Config, Summary};

use crate::archive::{Archive, Entry, Kind};
use crate::compression::Decoder;
use crate::error::{Error, Result};
use crate::measure::{Measured, hexadecimal};

/// How much of the archive is read at a time.
const BUFFER: usize = 256 << 10;

/// The most entries, whatever the configuration says: they are kept in memory, which the policy
/// limits.
const MOST_ENTRIES: u64 = 1_000_000;

/// Before the name of what a layer removes (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// Before the names of what aufs kept for itself; other readers skip these as well.
const AUFS: &[u8] = b".wh..wh.";

/// The directory that has it hides what is in it below.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Reads `layer`, and writes what is in it to `image`, which is empty.
///
/// # Errors
/// What is wrong with the layer. The image is of no use then.
pub fn unpack(
    config: &Config,
    layer: impl Read,
    image: impl Write + Seek,
) -> std::result::Result<Summary, Error> {
    let decoder = Decoder::new(config.compression, layer);
    let measured = Measured::new(decoder, config.limits.bytes);
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER, measured));
    let limits = erofs::Limits {
        entries: config.limits.entries.min(MOST_ENTRIES),
        contents: config.limits.bytes,
        ..erofs::Limits::default()
    };
    let mut image = Layer::with_limits(image, limits);
    while let Some(entry) = archive.next()? {
        put(&mut image, &mut archive, entry)?;
    }
    let mut rest = archive.into_rest();
    io::copy(&mut rest, &mut io::sink()).map_err(Error::Read)?;
    let (bytes, digest) = rest.into_inner().finish();
    if digest != config.diff_id {
        return Err(Error::Digest {
            expected: hexadecimal(&config.diff_id),
            found: hexadecimal(&digest),
        });
    }
    let done = image.finish()?;
    Ok(Summary {
        archive: bytes,
        image: done.size,
        inodes: done.inodes,
        contents: done.contents,
        implicit: done.implicit,
        opaque: done.opaque,
    })
}

/// Puts one entry into the image.
fn put<R: Read, W: Write + Seek>(
    image: &mut Layer<W>,
    archive: &mut Archive<R>,
    mut entry: Entry,
) -> Result<()> {
    let path = std::mem::take(&mut entry.path);
    match mark(&path)? {
        Mark::None => {}
        Mark::Skipped => return Ok(()),
        Mark::Opaque(directory) => return Ok(image.opaque(&directory)?),
        Mark::Whiteout(path) => return Ok(image.whiteout(&path)?),
    }
    let attributes = std::mem::take(&mut entry.attributes);
    let (major, minor) = entry.device;
    let special = match entry.kind {
        Kind::File => {
            let mut contents = archive.contents(&entry);
            return Ok(image.file(&path, attributes, entry.size, &mut contents)?);
        }
        Kind::Directory => return Ok(image.directory(&path, attributes)?),
        Kind::Symlink => return Ok(image.symlink(&path, attributes, &entry.target)?),
        Kind::HardLink => return Ok(image.hard_link(&path, &entry.target)?),
        Kind::Character => Special::Character { major, minor },
        Kind::Block => Special::Block { major, minor },
        Kind::Fifo => Special::Fifo,
    };
    Ok(image.node(&path, attributes, special)?)
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    /// Itself.
    None,
    /// Nothing.
    Skipped,
    /// This directory hides lower ones.
    Opaque(Vec<u8>),
    /// This is not there.
    Whiteout(Vec<u8>),
}

fn mark(path: &[u8]) -> Result<Mark> {
    let names = path.split(|byte| *byte == b'/');
    let names: Vec<_> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
    let Some((last, parents)) = names.split_last() else {
        return Ok(Mark::None);
    };
    let wrong = |why| Error::Entry {
        path: shown(path),
        why,
    };
    if parents.iter().any(|name| name.starts_with(AUFS)) {
        return Ok(Mark::Skipped);
    }
    if parents.iter().any(|name| name.starts_with(WHITEOUT)) {
        return Err(wrong("nothing can be in what its layer removes"));
    }
    if *last == OPAQUE {
        return Ok(Mark::Opaque(parents.join(&b'/')));
    }
    let Some(name) = last.strip_prefix(WHITEOUT) else {
        return Ok(Mark::None);
    };
    if last.starts_with(AUFS) {
        return Ok(Mark::Skipped);
    }
    if matches!(name, b"" | b"." | b"..") {
        return Err(wrong("it removes something without a name"));
    }
    let path = [parents, &[name]].concat();
    Ok(Mark::Whiteout(path.join(&b'/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_begin_as_whiteouts_stand_for_what_they_hide() {
        let whiteout = |path: &str| Mark::Whiteout(path.into());
        let opaque = |path: &str| Mark::Opaque(path.into());
        for (path, expected) in [
            ("a/.wh.b", whiteout("a/b")),
            (".wh.b", whiteout("b")),
            ("./a//.wh.b/", whiteout("a/b")),
            ("a/.wh..wh..opq", opaque("a")),
            (".wh..wh..opq", opaque("")),
            (".wh..wh.plnk", Mark::Skipped),
            (".wh..wh.plnk/1.2", Mark::Skipped),
            ("a/.wh", Mark::None),
            ("a.wh.b", Mark::None),
            ("./", Mark::None),
        ] {
            assert_eq!(mark(path.as_bytes()).unwrap(), expected, "{path}");
        }
        for path in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b"] {
            assert!(mark(path.as_bytes()).is_err(), "{path}");
        }
    }
}
