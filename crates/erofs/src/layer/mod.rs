//! A layer, entry by entry.

mod blocks;
mod finish;
mod path;
mod place;
mod tree;

use std::io::{Read, Seek, Write};

use blocks::Blocks;
use tree::{Body, Tree};

use crate::attributes::WHITEOUT;
use crate::format::{BLOCK, INODE, has_room};
use crate::{Attributes, Error, Result, Special, shown, xattrs};

/// The longest target of a symbolic link: Linux follows none longer.
const TARGET: usize = 4095;

/// How large a layer may be. What is kept in memory until its end is bounded by these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries, replaced ones and parents that have no entry of their own among them. Each takes
    /// about 300 bytes of memory.
    pub entries: u64,
    /// Bytes of all names, targets of symbolic links and extended attributes.
    pub names: u64,
    /// Bytes of all files' contents.
    pub contents: u64,
    /// Bytes of ends of files that are kept to be put beside their inodes. Ends that come when they
    /// are used up get a block each.
    pub ends: u64,
}

impl Default for Limits {
    /// A million entries, 64 MiB of names, contents without limit, 64 MiB of ends.
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            names: 64 << 20,
            contents: u64::MAX,
            ends: 64 << 20,
        }
    }
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the image.
    pub size: u64,
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of the contents of all files that were written, replaced ones too.
    pub contents: u64,
    /// Directories that exist because something is in them, and whose attributes nobody gave.
    pub implicit: u64,
    /// The root hides all layers below. overlayfs does not look at the mark on a root: whoever
    /// mounts leaves those layers out.
    pub opaque: bool,
}

/// Writes one layer to `W`, in the order of an archive's entries.
///
/// A path is made of components between slashes; empty ones and `.` are left out, `..` is refused. A
/// later entry replaces an earlier one of the same path, and all that is below it; but a directory
/// that comes again gets the new attributes and keeps what is in it. A directory in the place of
/// something else, or of a whiteout, hides what lower layers have there.
///
/// Parents that are missing are made, 0755 and root's. Where a path, or a hard link's target, leads
/// through a symbolic link *of this layer*, it is followed, with this layer's root as the root, as
/// container engines do it while they unpack; links of lower layers are not known here. The last
/// component is never followed.
#[derive(Debug)]
pub struct Layer<W> {
    tree: Tree,
    blocks: Blocks<W>,
    limits: Limits,
    /// Of [`Limits::contents`].
    contents: u64,
}

impl<W: Write + Seek> Layer<W> {
    /// A layer without entries. `out` is empty: long runs of zeros are left out, not written.
    pub fn new(out: W) -> Self {
        Self::with_limits(out, Limits::default())
    }

    /// The same, with other limits.
    pub fn with_limits(out: W, limits: Limits) -> Self {
        Self {
            tree: Tree::new(limits.entries, limits.names),
            blocks: Blocks::new(out, limits.ends),
            limits,
            contents: 0,
        }
    }

    /// A regular file of `size` bytes, which are read from `contents` at once.
    ///
    /// # Errors
    /// [`Error::Content`] or [`Error::Short`] if they cannot be read; those of the path; and any of
    /// the limits.
    pub fn file(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        size: u64,
        contents: &mut impl Read,
    ) -> Result<()> {
        let attributes = cleaned(path, attributes)?;
        self.contents = self.contents.saturating_add(size);
        if self.contents > self.limits.contents {
            return Err(Error::Limit {
                what: "bytes of contents",
                most: self.limits.contents,
            });
        }
        // What has room beside the inode and its attributes.
        let head = INODE.saturating_add(xattrs::size(&attributes.xattrs));
        let room = BLOCK.saturating_sub(head);
        // The place first: it may be refused.
        let place = self.tree.place(path)?;
        let stored = self.blocks.store(path, size, contents, room)?;
        self.tree.put(place, attributes, Body::File(stored))
    }

    /// A directory. The empty path is the root's.
    ///
    /// # Errors
    /// Those of the path, and of the limits.
    pub fn directory(&mut self, path: &[u8], attributes: Attributes) -> Result<()> {
        let attributes = cleaned(path, attributes)?;
        self.tree.put_directory(path, attributes)
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// [`Error::Attribute`] if the target is empty, has a NUL or is longer than 4095 bytes; those of
    /// the path, and of the limits.
    pub fn symlink(&mut self, path: &[u8], attributes: Attributes, target: &[u8]) -> Result<()> {
        if target.is_empty() || target.len() > TARGET || target.contains(&0) {
            return Err(Error::Attribute {
                path: shown(path),
                what: format!("the target `{}`", shown(target)),
                why: "it is empty, longer than 4095 bytes or has a NUL",
            });
        }
        let attributes = cleaned(path, attributes)?;
        self.tree.account(target.len())?;
        let place = self.tree.place(path)?;
        self.tree
            .put(place, attributes, Body::Symlink(target.into()))
    }

    /// Another name of a file that this layer has already.
    ///
    /// # Errors
    /// [`Error::HardLink`] if it does not, or it is a directory; those of the paths, and of the
    /// limits.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        self.tree.link(path, target)
    }

    /// A device, pipe or socket. The character device 0/0 is a whiteout.
    ///
    /// # Errors
    /// [`Error::Attribute`] if a device number has no room; those of the path, and of the limits.
    pub fn node(&mut self, path: &[u8], attributes: Attributes, special: Special) -> Result<()> {
        if special == WHITEOUT {
            return self.whiteout(path);
        }
        if !has_room(special) {
            return Err(Error::Attribute {
                path: shown(path),
                what: format!("the device number {special:?}"),
                why: "major numbers end at 4095, minor numbers at 1048575",
            });
        }
        let attributes = cleaned(path, attributes)?;
        let place = self.tree.place(path)?;
        self.tree.put(place, attributes, Body::Special(special))
    }

    /// Hides what lower layers have at `path`. What this layer has there stays, whether it came
    /// before or comes after.
    ///
    /// # Errors
    /// Those of the path, and of the limits.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        self.tree.whiteout(path)
    }

    /// Hides what lower layers have in the directory `path`, which is made if it is missing.
    ///
    /// # Errors
    /// Those of the path, and of the limits.
    pub fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.tree.opaque(path)
    }

    /// Writes names and inodes, and the superblock last.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::ImageTooLarge`].
    pub fn finish(self) -> Result<Summary> {
        finish::finish(self.tree, self.blocks, self.contents)
    }
}

/// Attributes that the format can have.
fn cleaned(path: &[u8], attributes: Attributes) -> Result<Attributes> {
    if attributes.mtime.nanos >= 1_000_000_000 {
        return Err(Error::Attribute {
            path: shown(path),
            what: format!("{} nanoseconds in its time", attributes.mtime.nanos),
            why: "a second has fewer",
        });
    }
    Ok(Attributes {
        xattrs: xattrs::clean(path, attributes.xattrs)?,
        ..attributes
    })
}
