//! Unpacked layers as the root that they make, looked at without a machine.

use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use build::{BoxError, Entry, Kind, Root};
use erofs::{Follow, Node, Reader, View};

/// A root made of layers.
pub(crate) struct LayersRoot(View<File>);

impl LayersRoot {
    /// Opens the files of layers, the lowest first.
    pub(crate) fn open(layers: &[PathBuf]) -> Result<Self, BoxError> {
        view(layers).map(Self)
    }

    /// What a path is; links are not followed. Without layers there is nothing.
    fn node(&self, path: &Path) -> Result<Option<Node>, erofs::Error> {
        match self.0.resolve(path.as_os_str().as_bytes(), Follow::No) {
            Ok(node) => Ok(Some(node)),
            Err(erofs::Error::NotFound(_) | erofs::Error::NotDirectory { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn there(&self, path: &Path) -> Result<Node, BoxError> {
        let missing = || format!("/{} is not there", path.display());
        Ok(self.node(path)?.ok_or_else(missing)?)
    }
}

/// The files of layers over each other, the lowest first.
pub(crate) fn view<P: AsRef<Path>>(layers: &[P]) -> Result<View<File>, BoxError> {
    let readers = layers.iter().rev().map(|path| {
        let path = path.as_ref();
        let file =
            File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        Ok(Reader::open(file)?)
    });
    let readers: Result<Vec<_>, BoxError> = readers.collect();
    Ok(View::new(readers?))
}

impl Root for LayersRoot {
    fn entry(&mut self, path: &Path) -> Result<Option<Entry>, BoxError> {
        let Some(node) = self.node(path)? else {
            return Ok(None);
        };
        let inode = node.inode();
        let attributes = inode.attributes();
        let xattrs = self.0.xattrs(&node)?.into_iter();
        let xattrs =
            xattrs.map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value));
        Ok(Some(Entry {
            kind: match inode.kind() {
                erofs::Kind::File => Kind::File,
                erofs::Kind::Directory => Kind::Directory,
                erofs::Kind::Symlink => {
                    Kind::Symlink(OsString::from_vec(self.0.target(&node)?).into())
                }
                erofs::Kind::Special(_) => Kind::Other,
            },
            mode: attributes.mode.into(),
            uid: attributes.uid,
            gid: attributes.gid,
            size: match inode.kind() {
                erofs::Kind::File => inode.size(),
                _ => 0,
            },
            mtime: attributes.mtime.seconds.try_into().unwrap_or(0),
            xattrs: xattrs.collect(),
        }))
    }

    fn names(&mut self, path: &Path) -> Result<Vec<OsString>, BoxError> {
        let node = self.there(path)?;
        let names = self.0.names(&node)?.into_iter();
        Ok(names.map(OsString::from_vec).collect())
    }

    fn open(&mut self, path: &Path) -> Result<Box<dyn Read + '_>, BoxError> {
        let node = self.there(path)?;
        Ok(Box::new(self.0.contents(&node)?))
    }
}
