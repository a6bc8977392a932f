//! The root of an image as one archive.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use build::BoxError;
use erofs::{Kind, Node, Special, View};
use tar::{Builder, EntryType, Header};

/// Writes what a root is, by names and a directory before what is in it, so that equal roots make equal
/// archives. Names of sockets are left out: an archive has none.
pub(crate) fn write(root: &View<File>, out: &mut dyn Write) -> Result<(), BoxError> {
    let mut export = Export {
        root,
        archive: Builder::new(out),
        written: HashMap::new(),
    };
    let mut left = vec![(PathBuf::new(), root.root()?)];
    while let Some((path, node)) = left.pop() {
        let named = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => &path,
        };
        let described = |error: BoxError| format!("{}: {error}", named.display());
        export.entry(named, &node).map_err(described)?;
        if node.inode().kind() == Kind::Directory {
            for name in root.names(&node)?.into_iter().rev() {
                if let Some(below) = root.lookup(&node, &name)? {
                    left.push((path.join(OsStr::from_bytes(&name)), below));
                }
            }
        }
    }
    Ok(export.archive.finish()?)
}

struct Export<'a> {
    root: &'a View<File>,
    archive: Builder<&'a mut dyn Write>,
    /// The first name of what has several.
    written: HashMap<(usize, u64), PathBuf>,
}

impl Export<'_> {
    fn entry(&mut self, path: &Path, node: &Node) -> Result<(), BoxError> {
        let inode = node.inode();
        let mut header = header(node);
        if inode.kind() != Kind::Directory && inode.links() > 1 {
            if let Some(first) = self.written.get(&node.identity()) {
                header.set_entry_type(EntryType::Link);
                return Ok(self.archive.append_link(&mut header, path, first)?);
            }
            self.written.insert(node.identity(), path.to_owned());
        }
        let kind = match inode.kind() {
            Kind::Special(Special::Socket) => return Ok(()),
            Kind::Special(special) => device(&mut header, special)?,
            Kind::Directory => EntryType::Directory,
            Kind::Symlink => EntryType::Symlink,
            Kind::File => EntryType::Regular,
        };
        header.set_entry_type(kind);
        self.attributes(node)?;
        match inode.kind() {
            Kind::File => {
                header.set_size(inode.size());
                let mut contents = self.root.contents(node)?;
                self.archive.append_data(&mut header, path, &mut contents)?;
            }
            Kind::Symlink => {
                let target = self.root.target(node)?;
                let target = OsStr::from_bytes(&target);
                // As it is written, if there is room; a longer one goes before the header.
                match header.set_link_name_literal(target.as_bytes()) {
                    Ok(()) => self.archive.append_data(&mut header, path, io::empty())?,
                    Err(_) => self.archive.append_link(&mut header, path, target)?,
                }
            }
            _ => self.archive.append_data(&mut header, path, io::empty())?,
        }
        Ok(())
    }

    /// Extended attributes, in the way of GNU tar and of layers.
    fn attributes(&mut self, node: &Node) -> Result<(), BoxError> {
        let xattrs = self.root.xattrs(node)?;
        let named = |(name, value): (&Vec<u8>, &Vec<u8>)| {
            let name = String::from_utf8_lossy(name);
            (format!("SCHILY.xattr.{name}"), value.clone())
        };
        let named: Vec<(String, Vec<u8>)> = xattrs.iter().map(named).collect();
        if named.is_empty() {
            return Ok(());
        }
        let pairs = named
            .iter()
            .map(|(name, value)| (name.as_str(), &value[..]));
        Ok(self.archive.append_pax_extensions(pairs)?)
    }
}

fn header(node: &Node) -> Header {
    let attributes = node.inode().attributes();
    let mut header = Header::new_gnu();
    header.set_mode(attributes.mode.into());
    header.set_uid(attributes.uid.into());
    header.set_gid(attributes.gid.into());
    header.set_mtime(attributes.mtime.seconds.try_into().unwrap_or(0));
    header.set_size(0);
    header
}

fn device(header: &mut Header, special: Special) -> io::Result<EntryType> {
    let (kind, major, minor) = match special {
        Special::Character { major, minor } => (EntryType::Char, major, minor),
        Special::Block { major, minor } => (EntryType::Block, major, minor),
        Special::Fifo | Special::Socket => (EntryType::Fifo, 0, 0),
    };
    header.set_device_major(major)?;
    header.set_device_minor(minor)?;
    Ok(kind)
}
