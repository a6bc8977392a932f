//! What the guest changed of its root, as a layer of an image.
//!
//! An overlay's upper directory has what was made or changed. What was removed is there as overlayfs
//! marks it, and in a layer as the OCI image specification does (layer.md, "Whiteouts").

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs::{self, File, Metadata},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use nix::libc::{dev_t, major, minor};
use rustix::{
    fs::{lgetxattr, llistxattr},
    io::Errno,
};
use tar::{Builder, EntryType, Header};

/// The extended attributes that overlayfs keeps for itself.
const PRIVATE: &str = "trusted.overlay.";
/// Of these it marks a directory that hides what is below it with this one.
const OPAQUE: &str = "trusted.overlay.opaque";
/// What a machine has of its host. It is in no image, whoever wrote it, as with container engines.
const OF_THE_HOST: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &str = ".wh..wh..opq";

/// What a header has room for (POSIX pax, "ustar Interchange Format"); longer ones go before it.
const NAME: usize = 100;

/// What is in an upper directory before anybody but the agent has changed anything.
#[derive(Debug, Default)]
pub(crate) struct Baseline(HashMap<PathBuf, State>);

/// Inode, and when anything of it was changed.
type State = (u64, i64, i64);

impl Baseline {
    /// As it is now. What cannot be looked at counts as changed later.
    pub(crate) fn of(upper: &Path) -> Self {
        let entries = entries(upper).unwrap_or_default();
        let state = |(path, metadata): (PathBuf, Metadata)| (path, state(&metadata));
        Self(entries.into_iter().map(state).collect())
    }

    fn has(&self, path: &Path, metadata: &Metadata) -> bool {
        self.0.get(path) == Some(&state(metadata))
    }
}

fn state(metadata: &Metadata) -> State {
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

/// Writes the layer that is in the directory `upper`, without what is as in the baseline. Directories
/// on the way to something are part of it: without them they would get other attributes.
pub(crate) fn write(upper: &Path, baseline: &Baseline, to: impl Write) -> io::Result<()> {
    let entries = entries(upper)?;
    let mut wanted = HashSet::new();
    for (path, metadata) in &entries {
        let of_the_host = OF_THE_HOST.iter().any(|name| *path == upper.join(name));
        if !baseline.has(path, metadata) && !of_the_host {
            wanted.extend(path.ancestors());
        }
    }
    let mut layer = Layer {
        archive: Builder::new(to),
        upper,
        links: HashMap::new(),
    };
    for (path, metadata) in &entries {
        if wanted.contains(path.as_path()) {
            layer.add(path, metadata)?;
        }
    }
    layer.archive.finish()
}

/// All that is in a directory, by names and a directory before what is in it, so that equal changes are
/// equal layers.
fn entries(directory: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let mut entries = Vec::new();
    let mut left = children(directory)?;
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            left.extend(children(&path)?);
        }
        entries.push((path, metadata));
    }
    Ok(entries)
}

/// What is in a directory, the first name last.
fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable_by(|one, other| other.cmp(one));
    Ok(paths)
}

struct Layer<'u, W: Write> {
    archive: Builder<W>,
    upper: &'u Path,
    /// Where files with several names were seen first.
    links: HashMap<u64, PathBuf>,
}

impl<W: Write> Layer<'_, W> {
    fn add(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let name = path.strip_prefix(self.upper).unwrap_or(path).to_owned();
        let kind = metadata.file_type();
        if kind.is_char_device() && metadata.rdev() == 0 {
            return self.whiteout(&name, name.file_name().unwrap_or_default());
        }
        if metadata.nlink() > 1 && !kind.is_dir() {
            if let Some(first) = self.links.get(&metadata.ino()).cloned() {
                return self.empty(&name, metadata, EntryType::Link, Some(&first), &[]);
            }
            self.links.insert(metadata.ino(), name.clone());
        }
        let (attributes, opaque) = attributes(path)?;
        if kind.is_file() {
            return self.file(path, &name, metadata, &attributes);
        }
        let link = kind.is_symlink().then(|| fs::read_link(path)).transpose()?;
        // A socket means nothing without who listens on it.
        let entry = match () {
            () if kind.is_dir() => EntryType::Directory,
            () if kind.is_symlink() => EntryType::Symlink,
            () if kind.is_char_device() => EntryType::Char,
            () if kind.is_block_device() => EntryType::Block,
            () if kind.is_fifo() => EntryType::Fifo,
            () => return Ok(()),
        };
        self.empty(&name, metadata, entry, link.as_deref(), &attributes)?;
        if opaque {
            self.mark(&name.join(OPAQUE_WHITEOUT))?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        name: &Path,
        metadata: &Metadata,
        attributes: &[Named],
    ) -> io::Result<()> {
        let file = File::open(path)?;
        let mut header = self.header(name, metadata, EntryType::Regular, None, attributes)?;
        header.set_size(metadata.len());
        header.set_cksum();
        // One that grows or shrinks meanwhile must not shift what comes behind it.
        let content = io::Read::chain(file, io::repeat(0));
        let content = io::Read::take(content, metadata.len());
        self.archive.append(&header, content)
    }

    fn empty(
        &mut self,
        name: &Path,
        metadata: &Metadata,
        kind: EntryType,
        link: Option<&Path>,
        attributes: &[Named],
    ) -> io::Result<()> {
        let mut header = self.header(name, metadata, kind, link, attributes)?;
        header.set_size(0);
        header.set_cksum();
        self.archive.append(&header, io::empty())
    }

    /// A header with all but size and checksum. What does not fit it is written before it.
    fn header(
        &mut self,
        name: &Path,
        metadata: &Metadata,
        kind: EntryType,
        link: Option<&Path>,
        attributes: &[Named],
    ) -> io::Result<Header> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(metadata.uid().into());
        header.set_gid(metadata.gid().into());
        header.set_mtime(metadata.mtime().try_into().unwrap_or(0));
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let device: dev_t = metadata.rdev();
            header.set_device_major(major(device))?;
            header.set_device_minor(minor(device))?;
        }
        let mut before = Vec::new();
        let mut name = name.as_os_str().as_bytes().to_vec();
        if kind == EntryType::Directory {
            name.push(b'/');
        }
        if let Some(header) = header.as_ustar_mut() {
            fit("path", &name, &mut header.name, &mut before);
            if let Some(link) = link {
                let link = link.as_os_str().as_bytes();
                fit("linkpath", link, &mut header.linkname, &mut before);
            }
        }
        let attributes = attributes
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone()));
        before.extend(attributes);
        self.precede(&before)?;
        Ok(header)
    }

    /// Writes what does not fit the header that comes next.
    fn precede(&mut self, records: &[Named]) -> io::Result<()> {
        let records = records.iter();
        let records = records.map(|(key, value)| (key.as_str(), &value[..]));
        self.archive.append_pax_extensions(records)
    }

    fn whiteout(&mut self, name: &Path, removed: &OsStr) -> io::Result<()> {
        let marker = [WHITEOUT, removed.as_bytes()].concat();
        self.mark(&name.with_file_name(OsStr::from_bytes(&marker)))
    }

    /// An empty file that is not one of the layer's.
    fn mark(&mut self, name: &Path) -> io::Result<()> {
        let mut before = Vec::new();
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_size(0);
        if let Some(header) = header.as_ustar_mut() {
            let name = name.as_os_str().as_bytes();
            fit("path", name, &mut header.name, &mut before);
        }
        self.precede(&before)?;
        header.set_cksum();
        self.archive.append(&header, io::empty())
    }
}

/// Puts `text` into a header's field; what is too long for it goes `before` the header as well.
fn fit(key: &str, text: &[u8], field: &mut [u8; NAME], before: &mut Vec<Named>) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
    if text.len() > NAME {
        before.push((key.to_owned(), text.to_vec()));
    }
}

/// An extended attribute, or a record before a header: a name and what it is.
type Named = (String, Vec<u8>);

/// Those that a layer has, and whether the directory hides what is below it.
fn attributes(path: &Path) -> io::Result<(Vec<Named>, bool)> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match llistxattr(path, &mut names) {
        // The file system has none.
        Err(Errno::NOTSUP) => 0,
        result => result?,
    };
    let mut attributes = Vec::new();
    let mut opaque = false;
    let names = names.get(..length).unwrap_or_default();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = vec![0_u8; 64 << 10];
        // It may be gone by now.
        let Ok(length) = lgetxattr(path, name.as_str(), &mut value) else {
            continue;
        };
        value.truncate(length);
        opaque |= name == OPAQUE && value == b"y";
        if !name.starts_with(PRIVATE) {
            attributes.push((name, value));
        }
    }
    attributes.sort_unstable();
    Ok((attributes, opaque))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn layer(upper: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(upper, &Baseline::default(), &mut bytes).unwrap();
        bytes
    }

    fn names(layer: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(layer);
        let entries = archive.entries().unwrap();
        let path = |entry: io::Result<tar::Entry<'_, _>>| {
            let entry = entry.unwrap();
            entry.path().unwrap().to_string_lossy().into_owned()
        };
        entries.map(path).collect()
    }

    #[test]
    fn what_was_made_is_there_in_order_with_its_kind() {
        let upper = tempfile::tempdir().unwrap();
        let at = |name: &str| upper.path().join(name);
        let long = format!("d/{}", "n".repeat(150));
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/file"), "content").unwrap();
        fs::set_permissions(at("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(at("d/file"), at("d/other")).unwrap();
        symlink("x".repeat(120), at("a-link")).unwrap();
        fs::write(at(&long), "").unwrap();
        let bytes = layer(upper.path());
        assert_eq!(names(&bytes), ["a-link", "d/", "d/file", &long, "d/other"]);
        assert_eq!(bytes, layer(upper.path()));
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let link = entry.link_name().unwrap().map(|link| link.into_owned());
                let mut content = String::new();
                io::Read::read_to_string(&mut entry, &mut content).unwrap();
                (entry.header().mode().unwrap(), link, content)
            })
            .collect();
        assert_eq!(entries[0].1, Some("x".repeat(120).into()));
        assert_eq!(entries[2], (0o4751, None, "content".to_owned()));
        assert_eq!(entries[4].1, Some("d/file".into()));
    }

    #[test]
    fn what_is_as_it_was_is_left_out_but_for_the_way_to_what_is_not() {
        let upper = tempfile::tempdir().unwrap();
        let at = |name: &str| upper.path().join(name);
        for directory in ["etc", "proc", "var", "var/deep"] {
            fs::create_dir(at(directory)).unwrap();
        }
        fs::write(at("etc/hosts"), "ours").unwrap();
        fs::write(at("var/deep/file"), "ours").unwrap();
        let baseline = Baseline::of(upper.path());
        let mut none = Vec::new();
        write(upper.path(), &baseline, &mut none).unwrap();
        assert_eq!(none, [0; 1024]);
        fs::write(at("var/deep/file"), "changed").unwrap();
        let mut bytes = Vec::new();
        write(upper.path(), &baseline, &mut bytes).unwrap();
        assert_eq!(names(&bytes), ["var/", "var/deep/", "var/deep/file"]);
    }

    #[test]
    fn what_was_removed_is_marked() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("NOT TESTED: whiteouts are device nodes, which only root makes");
            return;
        }
        let upper = tempfile::tempdir().unwrap();
        let directory = upper.path().join("d");
        fs::create_dir(&directory).unwrap();
        let gone = directory.join("gone");
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        let mode = nix::sys::stat::Mode::empty();
        nix::sys::stat::mknod(&gone, kind, mode, 0).unwrap();
        assert_eq!(names(&layer(upper.path())), ["d/", "d/.wh.gone"]);
        let set = rustix::fs::setxattr(&directory, OPAQUE, b"y", rustix::fs::XattrFlags::empty());
        if set.is_err() {
            eprintln!("NOT TESTED: this file system has no trusted attributes");
            return;
        }
        let expected = ["d/", "d/.wh..wh..opq", "d/.wh.gone"];
        assert_eq!(names(&layer(upper.path())), expected);
    }
}
