//! The end of a layer: directories, inodes and superblock.
//!
//! Behind the files' contents come those of directories and long symbolic links, then the inodes,
//! each with its attributes and, where that has room, the end of its contents.

use std::io::{Seek, Write};

use super::Summary;
use super::blocks::{Blocks, Stored};
use super::place::Space;
use super::tree::{Body, Directory, Id, ROOT, Tree};
use crate::attributes::WHITEOUT;
use crate::directory::{self, RawEntry};
use crate::format::{BLOCK, BLOCK_64, INODE, Layout, RawInode, SLOT, Superblock, entry_type};
use crate::xattrs::{self, OPAQUE, YES};
use crate::{Error, Kind, Result};

/// An inode that has a name, and where it goes.
struct Placed {
    id: Id,
    links: u32,
    layout: Layout,
    size: u64,
    /// The first block of its contents.
    block: u32,
    /// Bytes from the first inode block.
    at: u64,
}

/// Writes all that is left to write.
pub(super) fn finish<W: Write + Seek>(
    tree: Tree,
    mut blocks: Blocks<W>,
    contents: u64,
) -> Result<Summary> {
    let mut plan = Plan::new(&tree);
    for placed in &mut plan.inodes {
        if let Body::Directory(_) | Body::Symlink(_) = body(&tree, placed.id)? {
            placed.block = blocks.next();
            let bytes = produce(&tree, &plan.numbers, placed.id)?;
            let (in_blocks, _) = split(&bytes, placed.layout);
            blocks.append(in_blocks)?;
        }
    }
    let metadata = blocks.next();
    plan.write(&tree, &mut blocks)?;
    let inodes = plan.inodes.len() as u64;
    let first = Superblock {
        root: number(&plan.numbers, ROOT)?.try_into().map_err(|_| LOST)?,
        inodes,
        blocks: blocks.next(),
        metadata,
    };
    let size = u64::from(blocks.next()).saturating_mul(BLOCK_64);
    blocks.begin(&first.encode())?;
    let implicit = plan.inodes.iter().filter(|placed| {
        let directory = tree.directory(placed.id);
        directory.is_some_and(|directory| directory.implicit)
    });
    Ok(Summary {
        size,
        inodes,
        contents,
        implicit: implicit.count() as u64,
        opaque: tree.directory(ROOT).is_some_and(|root| root.opaque),
    })
}

/// That an inode is not there which was. It cannot happen.
const LOST: Error = Error::Damaged("an inode was lost while the image was written");

fn body(tree: &Tree, id: Id) -> Result<&Body> {
    tree.get(id).map(|inode| &inode.body).ok_or(LOST)
}

/// By which number directories name an inode; 0 if nobody names it.
fn number(numbers: &[u64], id: Id) -> Result<u64> {
    let number = numbers.get(id).copied();
    number.filter(|number| *number > 0).ok_or(LOST)
}

/// How much of the inodes is written at a time: a multiple of [`BLOCK`].
const PIECE: usize = 256 << 10;

struct Plan {
    /// The root first, and each directory before what is in it.
    inodes: Vec<Placed>,
    /// Of each inode of the tree.
    numbers: Vec<u64>,
    space: Space,
}

impl Plan {
    /// Finds what has a name, and places it.
    fn new(tree: &Tree) -> Self {
        let mut plan = Self {
            inodes: Vec::new(),
            numbers: vec![0; tree.count()],
            space: Space::new(),
        };
        let (order, links) = named(tree);
        for id in order {
            plan.place(tree, id, links.get(id).copied().unwrap_or(1));
        }
        plan
    }

    fn place(&mut self, tree: &Tree, id: Id, links: u32) {
        let Some(inode) = tree.get(id) else {
            return;
        };
        let (size, block, end) = match &inode.body {
            Body::Directory(directory) => {
                let size = directory::size(names(directory).iter().map(|name| name.len()));
                (size, 0, size % BLOCK_64)
            }
            Body::Symlink(target) => (target.len() as u64, 0, (target.len() % BLOCK) as u64),
            Body::File(Stored { size, block, end }) => (*size, *block, end.len() as u64),
            Body::Special(_) | Body::Whiteout => (0, 0, 0),
        };
        let head = INODE.saturating_add(xattrs::size(&full_xattrs(tree, id)));
        let end = usize::try_from(end).unwrap_or(BLOCK);
        let whole = head.saturating_add(end);
        let (layout, length) = if end > 0 && whole <= BLOCK {
            (Layout::Inline, whole)
        } else {
            (Layout::Plain, head)
        };
        let at = self.space.take(length);
        if let Some(number) = self.numbers.get_mut(id) {
            *number = at.checked_div(SLOT as u64).unwrap_or(0);
        }
        self.inodes.push(Placed {
            id,
            links,
            layout,
            size,
            block,
            at,
        });
    }

    /// Writes the inodes, block by block.
    fn write<W: Write + Seek>(&self, tree: &Tree, blocks: &mut Blocks<W>) -> Result<()> {
        let mut order: Vec<_> = (0_u32..).zip(&self.inodes).collect();
        order.sort_unstable_by_key(|(_, placed)| placed.at);
        let mut pending = Vec::new();
        let mut begin = 0_u64;
        for (index, placed) in order {
            let gap = placed.at.saturating_sub(begin);
            let gap = usize::try_from(gap).map_err(|_| Error::ImageTooLarge)?;
            pending.resize(gap, 0);
            pending.extend(self.encode(tree, index, placed)?);
            while let Some((piece, rest)) = pending.split_at_checked(PIECE) {
                blocks.append(piece)?;
                begin = begin.saturating_add(PIECE as u64);
                pending = rest.to_vec();
            }
        }
        let mut end = self.space.blocks().saturating_mul(BLOCK_64);
        if begin.saturating_add(pending.len() as u64) == end {
            // fsck.erofs looks for attributes behind every inode, be there any or not.
            end = end.saturating_add(BLOCK_64);
        }
        let gap = usize::try_from(end.saturating_sub(begin));
        pending.resize(gap.map_err(|_| Error::ImageTooLarge)?, 0);
        blocks.append(&pending)
    }

    /// An inode with all that follows it.
    fn encode(&self, tree: &Tree, index: u32, placed: &Placed) -> Result<Vec<u8>> {
        let inode = tree.get(placed.id).ok_or(LOST)?;
        let xattrs = xattrs::encode(&full_xattrs(tree, placed.id));
        let kind = kind(&inode.body);
        let raw = RawInode {
            layout: placed.layout,
            xattrs: xattrs.len(),
            kind,
            permissions: inode.attributes.mode & 0o7777,
            size: placed.size,
            block: placed.block,
            // From 1 on, as programs take 0 for none.
            number: index.saturating_add(1),
            uid: inode.attributes.uid,
            gid: inode.attributes.gid,
            mtime: inode.attributes.mtime,
            links: placed.links,
        };
        let mut bytes = raw.encode()?;
        bytes.extend(xattrs);
        match &inode.body {
            Body::File(stored) => bytes.extend(&stored.end),
            Body::Directory(_) | Body::Symlink(_) => {
                let contents = produce(tree, &self.numbers, placed.id)?;
                bytes.extend(split(&contents, placed.layout).1);
            }
            Body::Special(_) | Body::Whiteout => {}
        }
        Ok(bytes)
    }
}

/// The inodes that have a name, and how many names each has.
fn named(tree: &Tree) -> (Vec<Id>, Vec<u32>) {
    let mut links = vec![0_u32; tree.count()];
    let mut add = |id: Id, more: u32| {
        let Some(count) = links.get_mut(id) else {
            return false;
        };
        let is_new = *count == 0;
        *count = count.saturating_add(more);
        is_new
    };
    // A directory has its name and its `.`, and the `..` of each directory in it.
    add(ROOT, 2);
    let mut order = vec![ROOT];
    let mut pending = vec![ROOT];
    while let Some(id) = pending.pop() {
        let entries = tree.directory(id).map(|directory| &directory.entries);
        for child in entries.into_iter().flat_map(|entries| entries.values()) {
            let is_directory = tree.directory(*child).is_some();
            if add(*child, if is_directory { 2 } else { 1 }) {
                order.push(*child);
            }
            if is_directory {
                pending.push(*child);
                add(id, 1);
            }
        }
    }
    (order, links)
}

/// A directory's names with its own two, in order. Those are not before all others: `!` is less.
fn names(directory: &Directory) -> Vec<&[u8]> {
    let own: [&[u8]; 2] = [b".", b".."];
    let all = directory.entries.keys().map(AsRef::as_ref).chain(own);
    let mut names: Vec<&[u8]> = all.collect();
    names.sort_unstable();
    names
}

/// What goes into blocks, and what follows the inode.
fn split(contents: &[u8], layout: Layout) -> (&[u8], &[u8]) {
    let at = match layout {
        Layout::Plain => contents.len(),
        Layout::Inline => contents.len().saturating_sub(contents.len() % BLOCK),
    };
    contents.split_at_checked(at).unwrap_or((contents, &[]))
}

/// The contents of a directory or symbolic link.
fn produce(tree: &Tree, numbers: &[u64], id: Id) -> Result<Vec<u8>> {
    let directory = match body(tree, id)? {
        Body::Directory(directory) => directory,
        Body::Symlink(target) => return Ok(target.to_vec()),
        _ => return Ok(Vec::new()),
    };
    let mut entries: Vec<RawEntry<'_>> = Vec::new();
    for name in names(directory) {
        let child = match name {
            b"." => id,
            b".." => directory.parent,
            _ => directory.entries.get(name).copied().ok_or(LOST)?,
        };
        let kind = kind(body(tree, child)?);
        entries.push((number(numbers, child)?, entry_type(kind), name));
    }
    Ok(directory::encode(&entries))
}

fn kind(body: &Body) -> Kind {
    match body {
        Body::Directory(_) => Kind::Directory,
        Body::File(_) => Kind::File,
        Body::Symlink(_) => Kind::Symlink,
        Body::Special(special) => Kind::Special(*special),
        Body::Whiteout => Kind::Special(WHITEOUT),
    }
}

/// The attributes of an inode with what marks it as opaque.
fn full_xattrs(tree: &Tree, id: Id) -> crate::Xattrs {
    let inode = tree.get(id);
    let mut xattrs = inode
        .map(|inode| inode.attributes.xattrs.clone())
        .unwrap_or_default();
    if tree.directory(id).is_some_and(|directory| directory.opaque) {
        xattrs.insert(OPAQUE.to_vec(), YES.to_vec());
    }
    xattrs
}
