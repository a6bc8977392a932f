//! The archive: ustar, and what POSIX (pax) and GNU have added.
//!
//! Where readers of archives differ, this one does as Go's `archive/tar`, which container engines
//! read layers with: an image must not be one thing here and another there.

mod header;
mod pax;
mod sparse;

use std::io::{self, Read};

use erofs::{Attributes, shown};
use tar::Header;

pub(crate) use sparse::Contents;

use crate::error::{Error, Result};
use header::Fields;
use pax::Records;
use sparse::Map;

/// Archives are made of blocks of this size.
const BLOCK: usize = 512;

/// The most bytes of a header that describes the next entry: it is kept in memory.
const MOST: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// One entry. Its contents, if it is a file, come next in the archive.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Of a link.
    pub(crate) target: Vec<u8>,
    pub(crate) attributes: Attributes,
    /// Of a device: major and minor number.
    pub(crate) device: (u32, u32),
    /// Of a file, with holes.
    pub(crate) size: u64,
    map: Map,
}

/// A stream of entries.
pub(crate) struct Archive<R> {
    input: R,
    /// Bytes that were read.
    at: u64,
    /// What of the current entry was not read, with padding.
    left: u64,
}

/// What comes before an entry and describes it.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    records: Records,
    /// There is something at all.
    is_some: bool,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            at: 0,
            left: 0,
        }
    }

    /// The next entry; none at the end, after which more bytes may follow in the stream.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut ahead = Ahead::default();
        loop {
            self.skip()?;
            let begin = self.at;
            let damaged = |why| Error::Damaged { at: begin, why };
            let Some(header) = self.header()? else {
                if ahead.is_some {
                    return Err(damaged("it ends where an entry was announced"));
                }
                return Ok(None);
            };
            let fields = Fields(&header);
            let size = fields.size().ok_or_else(|| damaged("a size is no number"));
            match fields.kind() {
                // Records for all entries to come: Go hands them to its caller, who ignores them.
                b'g' => {
                    let size = size?;
                    self.left = size.saturating_add(padding(size));
                    continue;
                }
                b'L' => ahead.path = Some(header::text(&self.small(begin, size?)?).to_vec()),
                b'K' => ahead.target = Some(header::text(&self.small(begin, size?)?).to_vec()),
                b'x' => {
                    let bytes = self.small(begin, size?)?;
                    ahead.records = Records::parse(&bytes).map_err(damaged)?;
                }
                _ => return self.entry(&fields, ahead).map(Some),
            }
            ahead.is_some = true;
        }
    }

    /// The contents of the entry that came last.
    pub(crate) fn contents<'a>(&'a mut self, entry: &'a Entry) -> Contents<'a, Self> {
        entry.map.contents(self)
    }

    /// All that is left of the stream, whatever it is.
    pub(crate) fn into_rest(self) -> R {
        self.input
    }

    /// The next header; none if there are only zeros or the stream ends.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        if !self.fill(block)? || block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !header::is_sound(block) {
            let at = self.at.saturating_sub(BLOCK as u64);
            let why = "there is no header, its checksum is wrong";
            return Err(Error::Damaged { at, why });
        }
        Ok(Some(header))
    }

    /// What a header says of the entry after it.
    fn small(&mut self, at: u64, size: u64) -> Result<Vec<u8>> {
        if size > MOST {
            let why = "names and attributes of one entry have more than 1 MiB";
            return Err(Error::Damaged { at, why });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        if !self.fill(&mut bytes)? && size > 0 {
            return Err(Error::CutOff(self.at));
        }
        self.left = padding(size);
        Ok(bytes)
    }

    fn entry(&mut self, fields: &Fields<'_>, ahead: Ahead) -> Result<Entry> {
        let records = ahead.records;
        let path = records.path().or(ahead.path.as_deref());
        let path = path.map_or_else(|| fields.path(), <[u8]>::to_vec);
        let kind = kind(fields.kind(), &path)?;
        let wrong = |why| wrong(&path, why);
        let target = records.target().or(ahead.target.as_deref());
        let mut entry = Entry {
            kind,
            target: target.map_or_else(|| fields.target(), <[u8]>::to_vec),
            attributes: fields.attributes(&records).map_err(wrong)?,
            device: (0, 0),
            size: 0,
            map: Map::default(),
            path: path.clone(),
        };
        // Only files have contents, whatever the headers of others say: so does Go.
        match kind {
            Kind::File => {
                let stored = records.size().map_err(wrong)?.or_else(|| fields.size());
                let stored = stored.ok_or_else(|| wrong("its size is no number"))?;
                let whole = stored.checked_add(padding(stored));
                self.left = whole.ok_or_else(|| wrong("it is too large"))?;
                entry.map = self.map(fields, &records, stored, &wrong)?;
                entry.size = entry.map.size();
            }
            Kind::Character | Kind::Block => {
                let device = fields.device();
                entry.device = device.ok_or_else(|| wrong("its device number is none"))?;
            }
            _ => {}
        }
        Ok(entry)
    }

    /// Where a file's holes are.
    fn map(
        &mut self,
        fields: &Fields<'_>,
        records: &Records,
        stored: u64,
        wrong: &impl Fn(&'static str) -> Error,
    ) -> Result<Map> {
        let (fragments, size) = if fields.kind() == b'S' {
            let gnu = fields.gnu();
            sparse::old(self, gnu.ok_or_else(|| wrong("it has no header of GNU's"))?)?
        } else {
            match records.sparse().map_err(wrong)? {
                None => return Ok(Map::whole(stored)),
                Some((Some(fragments), size)) => (fragments, size),
                Some((None, size)) => (sparse::leading(self)?, size),
            }
        };
        let inside = self.left.saturating_sub(padding(stored));
        Map::new(fragments, size, inside).map_err(wrong)
    }

    /// Skips the rest of the current entry.
    fn skip(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.left);
        let skipped = io::copy(&mut self.input.by_ref().take(rest), &mut io::sink());
        let skipped = skipped.map_err(Error::Read)?;
        self.at = self.at.saturating_add(skipped);
        if skipped < rest {
            return Err(Error::CutOff(self.at));
        }
        Ok(())
    }

    /// Fills `buffer`. False if the stream ended before.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let whole = buffer.len();
        let mut rest = buffer;
        while !rest.is_empty() {
            match self.input.read(rest) {
                Ok(0) => break,
                Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        let read = whole.saturating_sub(rest.len());
        self.at = self.at.saturating_add(read as u64);
        if read > 0 && !rest.is_empty() {
            return Err(Error::CutOff(self.at));
        }
        Ok(rest.is_empty())
    }

    /// A block of the current entry's contents.
    fn block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        let left = self.left.checked_sub(BLOCK as u64);
        self.left = left.ok_or(Error::CutOff(self.at))?;
        if !self.fill(&mut block)? {
            return Err(Error::CutOff(self.at));
        }
        Ok(block)
    }
}

/// What an entry is, by its header.
fn kind(flag: u8, path: &[u8]) -> Result<Kind> {
    Ok(match flag {
        // Before POSIX, a directory was a file with a slash.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(Error::Kind {
                path: shown(path),
                kind: other.into(),
            });
        }
    })
}

fn wrong(path: &[u8], why: &'static str) -> Error {
    Error::Entry {
        path: shown(path),
        why,
    }
}

/// The current entry's contents as they are stored, and what is behind them.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let length = most.min(buffer.len());
        let count = self
            .input
            .read(buffer.get_mut(..length).unwrap_or_default())?;
        self.at = self.at.saturating_add(count as u64);
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

/// Bytes from the end of `size` bytes to the end of their last block.
const fn padding(size: u64) -> u64 {
    const WITHIN: u64 = BLOCK as u64 - 1;
    size.wrapping_neg() & WITHIN
}
