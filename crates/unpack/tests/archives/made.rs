//! Archives made by hand, and what becomes of them.

use std::io::Cursor;

use erofs::{Inode, Reader};
use sha2::{Digest, Sha256};
use tar::Header;
use unpack::{Error, unpack};
use wire::unpack::{Compression, Config, Limits, Summary};

/// Room for what is made here.
pub(crate) const LIMITS: Limits = Limits {
    bytes: 1 << 30,
    entries: 100_000,
};

pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Unpacks an archive that is not compressed.
pub(crate) fn plain(archive: &[u8], limits: Limits) -> Result<(Summary, Vec<u8>), Error> {
    let config = Config {
        compression: Compression::None,
        diff_id: digest(archive),
        limits,
    };
    packed(&config, archive)
}

/// Unpacks a layer.
pub(crate) fn packed(config: &Config, layer: &[u8]) -> Result<(Summary, Vec<u8>), Error> {
    let mut image = Cursor::new(Vec::new());
    let summary = unpack(config, layer, &mut image)?;
    assert_eq!(summary.image, image.get_ref().len() as u64);
    Ok((summary, image.into_inner()))
}

/// The image of an archive.
pub(crate) fn image(archive: &[u8]) -> Reader<Vec<u8>> {
    Reader::open(plain(archive, LIMITS).unwrap().1).unwrap()
}

/// What an archive is refused with, and its causes.
pub(crate) fn refused(archive: &[u8]) -> String {
    refused_with(archive, LIMITS)
}

pub(crate) fn refused_with(archive: &[u8], limits: Limits) -> String {
    let error = plain(archive, limits)
        .map(|(summary, _)| summary)
        .unwrap_err();
    wire::chain(&error)
}

/// What is at a path.
pub(crate) fn find(reader: &Reader<Vec<u8>>, path: &str) -> Option<Inode> {
    let names = path.split('/').filter(|name| !name.is_empty());
    let mut at = reader.root();
    for name in names {
        at = reader.lookup(&at, name.as_bytes()).unwrap()?;
    }
    Some(at)
}

/// All of a file.
pub(crate) fn contents(reader: &Reader<Vec<u8>>, inode: &Inode) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::copy(&mut reader.contents(inode), &mut bytes).unwrap();
    bytes
}

/// A header with everything set but the checksum.
pub(crate) fn header(kind: u8, path: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.as_old_mut().linkflag = [kind];
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

/// A header and contents, padded.
pub(crate) fn sealed(mut header: Header, contents: &[u8]) -> Vec<u8> {
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(contents);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn entry(kind: u8, path: &str, contents: &[u8]) -> Vec<u8> {
    sealed(
        header(kind, path.as_bytes(), contents.len() as u64),
        contents,
    )
}

pub(crate) fn link(kind: u8, path: &str, target: &str) -> Vec<u8> {
    let mut header = header(kind, path.as_bytes(), 0);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    sealed(header, b"")
}

/// A pax header with these records.
pub(crate) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length += 1;
        }
        bytes.extend(format!("{length} {key}=").into_bytes());
        bytes.extend(*value);
        bytes.push(b'\n');
    }
    entry(b'x', "pax", &bytes)
}
