//! Reads an image, whoever wrote it: no number in it is believed.

use std::io::{self, Read};

use crate::attributes::Kind;
use crate::directory;
use crate::format::{BLOCK, BLOCK_64, INODE, Layout, RawInode, SLOT, Superblock};
use crate::xattrs::{self, OPAQUE, YES};
use crate::{Attributes, Error, ReadAt, Result, Xattrs};

/// The longest target of a symbolic link: Linux follows none longer.
const TARGET: u64 = 4095;

/// An open image.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    superblock: Superblock,
    root: Inode,
}

/// An inode that was read, without its extended attributes and contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    number: u64,
    raw: RawInode,
    /// Bytes from the beginning of the image to the inode's end.
    end: u64,
}

impl Inode {
    /// By which directories name it.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.raw.kind
    }

    /// Bytes of its contents.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.raw.size
    }

    /// How many names it has, as the image says.
    #[must_use]
    pub const fn links(&self) -> u32 {
        self.raw.links
    }

    /// Its attributes but the extended ones, which [`Reader::xattrs`] reads.
    #[must_use]
    pub const fn attributes(&self) -> Attributes {
        Attributes {
            mode: self.raw.permissions,
            uid: self.raw.uid,
            gid: self.raw.gid,
            mtime: self.raw.mtime,
            xattrs: Xattrs::new(),
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.raw.kind == Kind::Directory
    }
}

/// One name in a directory. It is neither `.` nor `..`, and has no slash and no NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is called.
    pub name: Vec<u8>,
    /// Of the inode, for [`Reader::inode`].
    pub number: u64,
}

impl<R: ReadAt> Reader<R> {
    /// Opens an image, of which the superblock and the root are read.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`], [`Error::Unsupported`].
    pub fn open(source: R) -> Result<Self> {
        let mut block = vec![0; BLOCK];
        source.fill_at(0, &mut block)?;
        let superblock = Superblock::decode(&block)?;
        let root = read_inode(&source, &superblock, superblock.root.into())?;
        if !root.is_directory() {
            return Err(Error::Damaged("its root is no directory"));
        }
        Ok(Self {
            source,
            superblock,
            root,
        })
    }

    /// The root directory.
    #[must_use]
    pub const fn root(&self) -> Inode {
        self.root
    }

    /// How many inodes there are, as the image says.
    #[must_use]
    pub const fn inodes(&self) -> u64 {
        self.superblock.inodes
    }

    /// The inode that an entry names.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`], [`Error::Unsupported`].
    pub fn inode(&self, number: u64) -> Result<Inode> {
        read_inode(&self.source, &self.superblock, number)
    }

    /// What is called `name` in `directory`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`], [`Error::Unsupported`].
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<Inode>> {
        for entry in self.entries(directory) {
            let entry = entry?;
            if entry.name == name {
                return self.inode(entry.number).map(Some);
            }
        }
        Ok(None)
    }

    /// What is in `directory`, which is empty if it is none. The image decides how many entries
    /// there are, and whether they lead back to a directory above: a walk needs limits of its own.
    pub const fn entries(&self, directory: &Inode) -> Entries<'_, R> {
        Entries {
            reader: self,
            directory: *directory,
            at: 0,
            block: Vec::new(),
        }
    }

    /// The extended attributes by their full names. They take up to 256 KiB.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`], [`Error::Unsupported`].
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs> {
        let mut bytes = vec![0; inode.raw.xattrs];
        self.source.fill_at(inode.end, &mut bytes)?;
        xattrs::decode(&bytes)
    }

    /// Whether `directory` hides what lower layers have in it.
    ///
    /// # Errors
    /// As of [`Reader::xattrs`].
    pub fn is_opaque(&self, directory: &Inode) -> Result<bool> {
        let xattrs = self.xattrs(directory)?;
        Ok(xattrs.get(OPAQUE).is_some_and(|value| value == YES))
    }

    /// Where a symbolic link leads; nothing if it is none.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`].
    pub fn target(&self, link: &Inode) -> Result<Vec<u8>> {
        if link.raw.kind != Kind::Symlink {
            return Ok(Vec::new());
        }
        if link.raw.size > TARGET {
            return Err(Error::Damaged("a symbolic link is too long"));
        }
        let mut target = vec![0; usize::try_from(link.raw.size).unwrap_or(0)];
        let count = self.read(link, 0, &mut target)?;
        if count < target.len() || target.is_empty() || target.contains(&0) {
            return Err(Error::Damaged("a symbolic link leads nowhere"));
        }
        Ok(target)
    }

    /// The contents of a file, from their beginning.
    pub const fn contents(&self, inode: &Inode) -> Contents<'_, R> {
        Contents {
            reader: self,
            inode: *inode,
            at: 0,
        }
    }

    /// Reads contents from `offset` on; how many bytes. Fewer than there is room for are followed by
    /// the end.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`].
    pub fn read(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let left = inode.raw.size.saturating_sub(offset);
        let length = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        let in_blocks = in_blocks(&inode.raw).saturating_sub(offset);
        let count = usize::try_from(in_blocks).unwrap_or(usize::MAX).min(length);
        let (blocks, end) = buffer
            .split_at_mut_checked(count)
            .ok_or(Error::Damaged("a size makes no sense"))?;
        let begin = u64::from(inode.raw.block).saturating_mul(BLOCK_64);
        self.source.fill_at(begin.saturating_add(offset), blocks)?;
        if !end.is_empty() {
            let skipped = offset.saturating_sub(self::in_blocks(&inode.raw));
            let begin = inode.end.saturating_add(inode.raw.xattrs as u64);
            self.source.fill_at(begin.saturating_add(skipped), end)?;
        }
        Ok(length)
    }
}

/// How many bytes of contents are in blocks; the rest follows the inode.
const fn in_blocks(raw: &RawInode) -> u64 {
    match raw.layout {
        Layout::Plain => raw.size,
        Layout::Inline => raw.size.saturating_sub(raw.size % BLOCK_64),
    }
}

fn read_inode<R: ReadAt>(source: &R, superblock: &Superblock, number: u64) -> Result<Inode> {
    const OUTSIDE: Error = Error::Damaged("an inode or its contents would be behind its end");
    let whole = u64::from(superblock.blocks).saturating_mul(BLOCK_64);
    let first = u64::from(superblock.metadata).saturating_mul(BLOCK_64);
    let at = number
        .checked_mul(SLOT as u64)
        .and_then(|bytes| bytes.checked_add(first))
        .filter(|at| *at < whole)
        .ok_or(OUTSIDE)?;
    let mut bytes = [0; INODE];
    source.fill_at(at, &mut bytes)?;
    let raw = RawInode::decode(&bytes)?;
    let inode = Inode {
        number,
        raw,
        end: at.saturating_add(INODE as u64),
    };
    let in_blocks = in_blocks(&raw);
    let blocks = in_blocks.div_ceil(BLOCK_64);
    let behind = blocks.saturating_add(raw.block.into());
    let is_device = matches!(raw.kind, Kind::Special(_));
    if !is_device && blocks > 0 && behind > superblock.blocks.into() {
        return Err(OUTSIDE);
    }
    if is_device && raw.size > 0 {
        return Err(Error::Damaged("a device, pipe or socket has contents"));
    }
    let end = inode.end.saturating_add(raw.xattrs as u64);
    let inline = raw.size.saturating_sub(in_blocks);
    if end.saturating_add(inline) > whole {
        return Err(OUTSIDE);
    }
    if inline > 0 && (end % BLOCK_64).saturating_add(inline) > BLOCK_64 {
        return Err(Error::Damaged("the end of contents is in two blocks"));
    }
    Ok(inode)
}

/// The names in a directory, in the order of the image.
#[derive(Debug)]
pub struct Entries<'r, R> {
    reader: &'r Reader<R>,
    directory: Inode,
    /// How much has been read.
    at: u64,
    /// The rest of the current block, backwards.
    block: Vec<(u64, Vec<u8>)>,
}

impl<R: ReadAt> Iterator for Entries<'_, R> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        loop {
            while let Some((number, name)) = self.block.pop() {
                if name != b"." && name != b".." {
                    return Some(Ok(Entry { name, number }));
                }
            }
            if !self.directory.is_directory() || self.at >= self.directory.size() {
                return None;
            }
            if let Err(error) = self.fill() {
                // Nothing more comes after an error.
                self.at = u64::MAX;
                return Some(Err(error));
            }
        }
    }
}

impl<R: ReadAt> Entries<'_, R> {
    fn fill(&mut self) -> Result<()> {
        let mut block = [0; BLOCK];
        let count = self.reader.read(&self.directory, self.at, &mut block)?;
        self.at = self.at.saturating_add(BLOCK_64);
        self.block = directory::decode(block.get(..count).unwrap_or_default())?;
        self.block.reverse();
        Ok(())
    }
}

/// The contents of a file, read one after the other.
#[derive(Debug)]
pub struct Contents<'r, R> {
    reader: &'r Reader<R>,
    inode: Inode,
    at: u64,
}

impl<R: ReadAt> Read for Contents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(&self.inode, self.at, buffer);
        let count = read.map_err(io::Error::other)?;
        self.at = self.at.saturating_add(count as u64);
        Ok(count)
    }
}
