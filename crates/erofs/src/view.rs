//! Several images over each other, as overlayfs shows them.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry::Vacant};

use crate::reader::{Contents, Inode, Reader};
use crate::{Error, ReadAt, Result, Xattrs, shown};

/// The most symbolic links of one path, as in Linux.
const LINKS: u32 = 40;

/// The most components of one path, those of links among them.
const STEPS: usize = 4096;

/// The most names of one directory that are listed.
const NAMES: usize = 1_000_000;

/// Images over each other, the topmost first.
#[derive(Debug)]
pub struct View<R> {
    layers: Vec<Reader<R>>,
}

/// Something in a [`View`], and of a directory all that makes it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    top: Part,
    /// What lower layers have of a directory.
    below: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    layer: usize,
    inode: Inode,
}

/// What becomes of a symbolic link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It is followed.
    Yes,
    /// It is what was asked for.
    No,
}

impl Node {
    /// Its inode in the topmost layer that has it.
    #[must_use]
    pub const fn inode(&self) -> &Inode {
        &self.top.inode
    }

    /// Tells two names of one file from two files: the layer, and the inode's number in it.
    #[must_use]
    pub const fn identity(&self) -> (usize, u64) {
        (self.top.layer, self.top.inode.number())
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.top).chain(&self.below)
    }
}

impl<R: ReadAt> View<R> {
    /// Lays images over each other, the topmost first.
    #[must_use]
    pub const fn new(layers: Vec<Reader<R>>) -> Self {
        Self { layers }
    }

    /// The root directory.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no layer; those of reading.
    pub fn root(&self) -> Result<Node> {
        let parts = self.layers.iter().enumerate();
        let parts = parts.map(|(layer, reader)| Part {
            layer,
            inode: reader.root(),
        });
        let merged = self.merge(parts.map(|part| Ok(Some(part))))?;
        merged.ok_or_else(|| Error::NotFound("/".to_owned()))
    }

    /// What is called `name` in `directory`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`], [`Error::Unsupported`].
    pub fn lookup(&self, directory: &Node, name: &[u8]) -> Result<Option<Node>> {
        self.merge(directory.parts().map(|part| {
            let reader = self.layer(part)?;
            let inode = reader.lookup(&part.inode, name)?;
            Ok(inode.map(|inode| Part {
                layer: part.layer,
                inode,
            }))
        }))
    }

    /// The names in `directory`, in order.
    ///
    /// # Errors
    /// [`Error::Limit`] if there are more than a million; those of [`View::lookup`].
    pub fn names(&self, directory: &Node) -> Result<BTreeSet<Vec<u8>>> {
        // The topmost layer that has a name decides whether it is there.
        let mut names = BTreeMap::new();
        for part in directory.parts() {
            let reader = self.layer(part)?;
            for entry in reader.entries(&part.inode) {
                let entry = entry?;
                if names.len() >= NAMES {
                    return Err(Error::Limit {
                        what: "names in one directory",
                        most: NAMES as u64,
                    });
                }
                if let Vacant(vacant) = names.entry(entry.name) {
                    vacant.insert(reader.inode(entry.number)?.kind().is_whiteout());
                }
            }
        }
        let there = names.into_iter().filter(|(_, is_hidden)| !is_hidden);
        Ok(there.map(|(name, _)| name).collect())
    }

    /// What is at `path`, whose symbolic links are followed as by a process whose root this is:
    /// neither they nor `..` lead out of it. The empty path is the root's.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::Loop`] after 40 links; those of
    /// reading.
    pub fn resolve(&self, path: &[u8], follow: Follow) -> Result<Node> {
        let mut above = vec![self.root()?];
        let mut pending = components(path);
        let (mut links, mut steps) = (0_u32, pending.len());
        // What was found last, if it is no directory.
        let mut end = None;
        while let Some(name) = pending.pop() {
            if end.is_some() {
                return Err(Error::NotDirectory {
                    path: shown(path),
                    at: "a file".to_owned(),
                });
            }
            if name == b".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let here = above.last().ok_or_else(|| Error::NotFound(shown(path)))?;
            let node = self.lookup(here, &name)?;
            let node = node.ok_or_else(|| Error::NotFound(shown(path)))?;
            let target = self.target(&node)?;
            if !target.is_empty() && (follow == Follow::Yes || !pending.is_empty()) {
                let more = components(&target);
                links = links.saturating_add(1);
                steps = steps.saturating_add(more.len());
                if links > LINKS || steps > STEPS {
                    return Err(Error::Loop(shown(path)));
                }
                if target.starts_with(b"/") {
                    above.truncate(1);
                }
                pending.extend(more);
            } else if node.inode().is_directory() {
                above.push(node);
            } else {
                end = Some(node);
            }
        }
        end.or_else(|| above.pop())
            .ok_or_else(|| Error::NotFound(shown(path)))
    }

    /// The contents of a file.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `node` is of another view.
    pub fn contents(&self, node: &Node) -> Result<Contents<'_, R>> {
        Ok(self.layer(&node.top)?.contents(&node.top.inode))
    }

    /// Where a symbolic link leads; nothing if it is none.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`].
    pub fn target(&self, node: &Node) -> Result<Vec<u8>> {
        self.layer(&node.top)?.target(&node.top.inode)
    }

    /// The extended attributes without overlayfs' own.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`], [`Error::Unsupported`].
    pub fn xattrs(&self, node: &Node) -> Result<Xattrs> {
        let mut xattrs = self.layer(&node.top)?.xattrs(&node.top.inode)?;
        xattrs.retain(|name, _| !name.starts_with(b"trusted.overlay."));
        Ok(xattrs)
    }

    fn layer(&self, part: &Part) -> Result<&Reader<R>> {
        let layer = self.layers.get(part.layer);
        layer.ok_or_else(|| Error::NotFound("layer of another view".to_owned()))
    }

    /// Makes one node of what the layers have, the topmost first.
    fn merge(&self, found: impl Iterator<Item = Result<Option<Part>>>) -> Result<Option<Node>> {
        let mut node: Option<Node> = None;
        for part in found {
            let Some(part) = part? else {
                continue;
            };
            let is_directory = part.inode.is_directory();
            match &mut node {
                _ if part.inode.kind().is_whiteout() => break,
                Some(node) if is_directory => node.below.push(part),
                Some(_) => break,
                None => {
                    let below = Vec::new();
                    node = Some(Node { top: part, below });
                }
            }
            if !is_directory || self.layer(&part)?.is_opaque(&part.inode)? {
                break;
            }
        }
        Ok(node)
    }
}

/// The components of a path, the first at the end.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').rev();
    names
        .filter(|name| !matches!(*name, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}
