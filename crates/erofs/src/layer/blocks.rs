//! Contents, block after block as they come.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};

use crate::format::{BLOCK, BLOCK_64};
use crate::{Error, Result, shown};

/// How much is copied at a time: a multiple of [`BLOCK`].
const PIECE: usize = 256 << 10;

/// Where contents are.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) size: u64,
    /// The first block; nothing is in it if there are no blocks.
    pub(super) block: u32,
    /// What is not in blocks: the last bytes, fewer than a block.
    pub(super) end: Box<[u8]>,
}

/// The file's blocks, of which the first is the superblock's.
#[derive(Debug)]
pub(super) struct Blocks<W> {
    out: W,
    /// The next block.
    next: u32,
    /// Where `out` is, if it is not there.
    skipped: bool,
    piece: Vec<u8>,
    /// How many bytes of ends may still be kept.
    ends: u64,
}

impl<W: Write + Seek> Blocks<W> {
    pub(super) fn new(out: W, ends: u64) -> Self {
        Self {
            out,
            next: 1,
            skipped: true,
            piece: vec![0; PIECE],
            ends,
        }
    }

    /// The block that is written next.
    pub(super) const fn next(&self) -> u32 {
        self.next
    }

    /// Appends `size` bytes of `contents`. If the end of them that fills no block has `room` beside
    /// an inode, it is kept.
    pub(super) fn store(
        &mut self,
        path: &[u8],
        size: u64,
        contents: &mut impl Read,
        room: usize,
    ) -> Result<Stored> {
        let odd = size % BLOCK_64;
        let keeps = odd <= room as u64 && odd <= self.ends;
        let odd = if keeps { odd } else { 0 };
        let in_blocks = size.saturating_sub(odd);
        let block = self.next;
        let mut left = in_blocks;
        let mut piece = std::mem::take(&mut self.piece);
        let short = |missing: u64| Error::Short {
            path: shown(path),
            read: size.saturating_sub(missing),
            size,
        };
        let failed = |source| Error::Content {
            path: shown(path),
            source,
        };
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let buffer = piece.get_mut(..length).unwrap_or_default();
            let read = read_full(contents, buffer).map_err(failed)? as u64;
            left = left.saturating_sub(read);
            if read < length as u64 {
                return Err(short(left.saturating_add(odd)));
            }
            self.append(buffer)?;
        }
        self.piece = piece;
        let mut end = vec![0; usize::try_from(odd).unwrap_or(0)];
        let read = read_full(contents, &mut end).map_err(failed)? as u64;
        if read < odd {
            return Err(short(odd.saturating_sub(read)));
        }
        self.ends = self.ends.saturating_sub(odd);
        Ok(Stored {
            size,
            block,
            end: end.into(),
        })
    }

    /// Appends `bytes`, and zeros up to the end of a block. If they are all zeros they are left out:
    /// the file gets a hole.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let blocks = bytes.len().div_ceil(BLOCK);
        let next = u32::try_from(blocks).ok();
        let next = next.and_then(|blocks| self.next.checked_add(blocks));
        let next = next.ok_or(Error::ImageTooLarge)?;
        if bytes.iter().all(|byte| *byte == 0) {
            self.skipped = true;
        } else {
            self.write(bytes).map_err(Error::Write)?;
        }
        self.next = next;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.skipped {
            let at = u64::from(self.next).saturating_mul(BLOCK_64);
            self.out.seek(SeekFrom::Start(at))?;
            self.skipped = false;
        }
        self.out.write_all(bytes)?;
        let odd = bytes.len() % BLOCK;
        if odd > 0 {
            let zeros = [0; BLOCK];
            self.out.write_all(zeros.get(odd..).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Writes the first block, after all others.
    pub(super) fn begin(mut self, first: &[u8]) -> Result<()> {
        let end = u64::from(self.next).saturating_mul(BLOCK_64);
        let mut write = || {
            if self.skipped {
                // The file is as long as it says, also if its end is a hole.
                self.out.seek(SeekFrom::Start(end.saturating_sub(1)))?;
                self.out.write_all(&[0])?;
            }
            self.out.seek(SeekFrom::Start(0))?;
            self.out.write_all(first)?;
            self.out.flush()
        };
        write().map_err(Error::Write)
    }
}

/// Reads until `buffer` is full or the reader ends; how much.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let whole = buffer.len();
    let mut rest = buffer;
    while !rest.is_empty() {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(whole.saturating_sub(rest.len()))
}
