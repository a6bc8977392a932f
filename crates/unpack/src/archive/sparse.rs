//! Files with holes, in the four forms that GNU's tar has had (its manual, "Storing Sparse Files").

use std::io::{self, Read};

use tar::{GnuHeader, GnuSparseHeader};

use super::header::number;
use super::pax::decimal;
use super::{Archive, BLOCK};
use crate::error::{Error, Result};

/// The most fragments of one file.
const MOST: usize = 1 << 18;

/// Where bytes of a file go, and how many; the rest are holes.
pub(super) type Fragments = Vec<(u64, u64)>;

/// Where a file's bytes are.
#[derive(Debug, Default)]
pub(crate) struct Map {
    /// In order, without overlaps.
    fragments: Fragments,
    size: u64,
}

impl Map {
    /// Of a file without holes.
    pub(super) fn whole(size: u64) -> Self {
        Self {
            fragments: vec![(0, size)],
            size,
        }
    }

    /// Checks a map of a file that has `stored` bytes in the archive.
    pub(super) fn new(
        fragments: Fragments,
        size: u64,
        stored: u64,
    ) -> std::result::Result<Self, &'static str> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (at, length) in &fragments {
            let behind = at.checked_add(*length).filter(|behind| *behind <= size);
            let behind = behind.filter(|_| *at >= end);
            end = behind.ok_or("its map of holes is out of order or exceeds its size")?;
            sum = sum.saturating_add(*length);
        }
        if sum != stored {
            return Err("its map of holes does not fit its contents");
        }
        Ok(Self { fragments, size })
    }

    /// With holes.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Reads the file, whose stored bytes come from `input`.
    pub(super) fn contents<'a, R>(&'a self, input: &'a mut R) -> Contents<'a, R> {
        Contents {
            input,
            fragments: &self.fragments,
            at: 0,
            size: self.size,
        }
    }
}

/// A file's bytes, zeros in its holes.
pub(crate) struct Contents<'a, R> {
    input: &'a mut R,
    /// What is not read to its end.
    fragments: &'a [(u64, u64)],
    at: u64,
    size: u64,
}

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(((at, length), behind)) = self.fragments.split_first()
            && at.saturating_add(*length) <= self.at
        {
            self.fragments = behind;
        }
        let (is_hole, end) = match self.fragments.first() {
            Some((at, length)) if *at <= self.at => (false, at.saturating_add(*length)),
            Some((at, _)) => (true, *at),
            None => (true, self.size),
        };
        let most = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = most.min(buffer.len());
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        let count = if is_hole {
            buffer.fill(0);
            length
        } else {
            self.input.read(buffer)?
        };
        self.at = self.at.saturating_add(count as u64);
        Ok(count)
    }
}

/// The map and the size of a file in GNU's old form: the header has the first numbers, and blocks
/// behind it have more.
pub(super) fn old<R: Read>(
    archive: &mut Archive<R>,
    header: &GnuHeader,
) -> Result<(Fragments, u64)> {
    let damaged = |archive: &Archive<R>, why| Error::Damaged {
        at: archive.at,
        why,
    };
    const NUMBERS: &str = "a map of holes has something that is no number";
    let mut fragments = Fragments::new();
    let size = number(&header.realsize).and_then(|size| u64::try_from(size).ok());
    let size = size.ok_or_else(|| damaged(archive, NUMBERS))?;
    for fragment in &header.sparse {
        fragments.extend(old_fragment(fragment).map_err(|()| damaged(archive, NUMBERS))?);
    }
    let mut more = header.isextended != [0];
    while more {
        let mut block = [0; BLOCK];
        if !archive.fill(&mut block)? {
            return Err(Error::CutOff(archive.at));
        }
        let (numbers, _) = block.as_chunks::<24>();
        for numbers in numbers {
            let (at, length) = numbers.split_at(12);
            let fragment = fragment(at, length);
            fragments.extend(fragment.map_err(|()| damaged(archive, NUMBERS))?);
        }
        if fragments.len() > MOST {
            return Err(damaged(archive, TOO_MANY));
        }
        more = block.get(504) != Some(&0);
    }
    Ok((fragments, size))
}

const TOO_MANY: &str = "a file has more than 262144 fragments between holes";

fn old_fragment(header: &GnuSparseHeader) -> std::result::Result<Option<(u64, u64)>, ()> {
    fragment(&header.offset, &header.numbytes)
}

/// One fragment; none if the place is not used.
fn fragment(at: &[u8], length: &[u8]) -> std::result::Result<Option<(u64, u64)>, ()> {
    if at.first() == Some(&0) || length.first() == Some(&0) {
        return Ok(None);
    }
    let number = |field| number(field).and_then(|number| u64::try_from(number).ok());
    Ok(Some((number(at).ok_or(())?, number(length).ok_or(())?)))
}

/// The map at the beginning of the current entry's contents: how many fragments, then each with two
/// numbers, a line each, up to the end of a block.
pub(super) fn leading<R: Read>(archive: &mut Archive<R>) -> Result<Fragments> {
    let mut text = Vec::new();
    let mut needed = None;
    loop {
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        let why = "a map of holes has something that is no number";
        let damaged = |why| Error::Damaged {
            at: archive.at,
            why,
        };
        if needed.is_none() && lines > 0 {
            let count = text.split(|byte| *byte == b'\n').next().and_then(decimal);
            let count = count.and_then(|count| usize::try_from(count).ok());
            let count = count.ok_or_else(|| damaged(why))?;
            if count > MOST {
                return Err(damaged(TOO_MANY));
            }
            needed = Some(count.saturating_mul(2).saturating_add(1));
        }
        if needed.is_some_and(|needed| lines >= needed) {
            let numbers = text.iter().position(|byte| *byte == b'\n');
            let begin = numbers.unwrap_or(0).saturating_add(1);
            let count = needed.unwrap_or(1).saturating_sub(1);
            let lines = text.get(begin..).unwrap_or_default();
            return numbers_of(lines, b'\n', count).ok_or_else(|| damaged(why));
        }
        if text.len() > MOST.saturating_mul(64) {
            return Err(damaged(why));
        }
        text.extend(archive.block()?);
    }
}

/// All numbers of a list, in pairs; an empty end is no number.
pub(super) fn pairs(list: &[u8], between: u8) -> Option<Fragments> {
    let list = list.strip_suffix(&[between]).unwrap_or(list);
    let count = list.split(|byte| *byte == between).count();
    (count % 2 == 0 && count <= MOST).then(|| numbers_of(list, between, count))?
}

/// The first `count` numbers of a list, in pairs.
fn numbers_of(list: &[u8], between: u8, count: usize) -> Option<Fragments> {
    let parts = list.split(|byte| *byte == between).take(count);
    let numbers = parts.map(decimal).collect::<Option<Vec<u64>>>()?;
    let (pairs, _) = numbers.as_chunks::<2>();
    Some(pairs.iter().map(|[at, length]| (*at, *length)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_in_order_within_the_size_and_of_all_that_is_stored() {
        assert!(Map::new(vec![(0, 5), (5, 5), (20, 0)], 20, 10).is_ok());
        assert!(Map::new(vec![], 20, 0).is_ok());
        assert!(Map::new(vec![(5, 5), (0, 5)], 20, 10).is_err());
        assert!(Map::new(vec![(0, 6), (5, 5)], 20, 11).is_err());
        assert!(Map::new(vec![(16, 5)], 20, 5).is_err());
        assert!(Map::new(vec![(u64::MAX, 5)], u64::MAX, 5).is_err());
        assert!(Map::new(vec![(0, 5)], 20, 6).is_err());
    }

    #[test]
    fn holes_are_zeros() {
        let map = Map::new(vec![(2, 2), (4, 1), (6, 0), (8, 1)], 10, 4).unwrap();
        let mut bytes = Vec::new();
        map.contents(&mut &b"abcd"[..])
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(bytes, b"\0\0abc\0\0\0d\0");
    }
}
