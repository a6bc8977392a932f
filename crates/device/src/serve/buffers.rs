//! One half of a chain as the pieces of guest memory that it is made of.

use std::io;
use std::os::fd::BorrowedFd;

use smallvec::SmallVec;
use vm_memory::{GuestMemory, Permissions, VolatileSlice};

use super::journal::Note;
use super::queue::Memory;
use super::vectored;

/// Pieces of guest memory, used from the front. The guest may change what is in them at any time:
/// what is looked at twice may differ.
#[derive(Debug, Clone, Default)]
pub struct Buffers<'a> {
    slices: SmallVec<[VolatileSlice<'a>; 20]>,
    /// Slices that are used up.
    first: usize,
    length: usize,
}

impl<'a> Buffers<'a> {
    /// The pieces that `descriptors` name; `None` if one is outside of guest memory.
    pub(super) fn collect(
        memory: &'a Memory,
        descriptors: impl Iterator<Item = virtio_queue::desc::split::Descriptor>,
        access: Permissions,
    ) -> Option<Self> {
        let mut buffers = Self::default();
        for descriptor in descriptors {
            let length = usize::try_from(descriptor.len()).ok()?;
            buffers.length = buffers.length.checked_add(length)?;
            for slice in memory.get_slices(descriptor.addr(), length, access).ok()? {
                buffers.slices.push(slice.ok()?);
            }
        }
        Some(buffers)
    }

    /// Bytes that are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn left(&self) -> &[VolatileSlice<'a>] {
        self.slices.get(self.first..).unwrap_or_default()
    }

    /// Adds what is left of `other` behind.
    pub fn extend(&mut self, other: &Buffers<'a>) {
        self.slices.extend_from_slice(other.left());
        self.length = self.length.saturating_add(other.length);
    }

    /// Copies from the front into `bytes` and leaves it; how many, which is less only where there
    /// are no more.
    pub fn peek(&self, bytes: &mut [u8]) -> usize {
        let mut copied = 0_usize;
        for slice in self.left() {
            let Some(rest) = bytes.get_mut(copied..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            copied = copied.saturating_add(slice.copy_to(rest));
        }
        copied
    }

    /// Copies `bytes` to the front, which is used up by it; how many, as [`Buffers::peek`].
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let mut copied = 0_usize;
        for slice in self.left() {
            let Some(rest) = bytes.get(copied..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            slice.copy_from(rest);
            copied = copied.saturating_add(rest.len().min(slice.len()));
        }
        self.advance(copied);
        copied
    }

    /// Copies what is left of `other` to the front, which is used up by it; how many, as
    /// [`Buffers::peek`].
    pub fn copy(&mut self, mut other: Buffers<'_>) -> usize {
        let mut copied = 0_usize;
        while let (Some(to), Some(from)) = (self.left().first(), other.left().first()) {
            let count = to.len().min(from.len());
            if let Ok(from) = from.subslice(0, count) {
                from.copy_to_volatile_slice(*to);
            }
            self.advance(count);
            other.advance(count);
            copied = copied.saturating_add(count);
        }
        copied
    }

    /// Drops `count` bytes at the front, or all if there are fewer.
    pub fn advance(&mut self, count: usize) {
        let mut count = count.min(self.length);
        self.length = self.length.saturating_sub(count);
        while let Some(slice) = self.slices.get_mut(self.first) {
            if let Ok(rest) = slice.offset(count)
                && !rest.is_empty()
            {
                *slice = rest;
                return;
            }
            count = count.saturating_sub(slice.len());
            self.first = self.first.saturating_add(1);
        }
    }

    /// Leaves at most `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        let mut room = length;
        let mut keep = self.first;
        for slice in self.slices.iter_mut().skip(self.first) {
            if room == 0 {
                break;
            }
            if let Ok(part) = slice.subslice(0, room.min(slice.len())) {
                *slice = part;
            }
            room = room.saturating_sub(slice.len());
            keep = keep.saturating_add(1);
        }
        self.slices.truncate(keep);
        self.length = self.length.min(length);
    }

    /// Leaves at most `length` bytes, and returns those behind them.
    #[must_use]
    pub fn split_off(&mut self, length: usize) -> Self {
        let mut rest = Self {
            length: self.length.saturating_sub(length),
            ..Self::default()
        };
        let mut skip = length;
        for slice in self.left() {
            if let Ok(part) = slice.offset(skip.min(slice.len()))
                && !part.is_empty()
            {
                rest.slices.push(part);
            }
            skip = skip.saturating_sub(slice.len());
        }
        self.truncate(length);
        rest
    }

    /// Writes from the front to `fd` with one call and leaves it; how many bytes were taken.
    ///
    /// # Errors
    /// What `writev` says.
    pub fn write_to(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        vectored::write(fd, self.left())
    }

    /// Reads from `fd` to the front with one call and leaves it; how many bytes there were.
    ///
    /// # Errors
    /// What `readv` says.
    pub fn read_from(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        vectored::read(fd, self.left(), &mut [])
    }

    /// As [`Buffers::read_from`]; what there is no room for is read into `rest`, with the same
    /// call. At most 64 pieces are used.
    ///
    /// # Errors
    /// What `readv` says.
    pub fn read_from_with(&self, fd: BorrowedFd<'_>, rest: &mut [u8]) -> io::Result<usize> {
        vectored::read(fd, self.left(), rest)
    }

    /// Sends from the front to the stream `fd` with one call that does not wait, and leaves it; how
    /// many bytes were taken, which `note` tells a successor too.
    ///
    /// # Errors
    /// What `sendmmsg` says.
    pub fn send(&self, fd: BorrowedFd<'_>, note: &Note<'_>) -> io::Result<usize> {
        vectored::send(fd, self.left(), note)
    }

    /// Bytes that are within the reach of one call: all of them, unless there are very many pieces.
    #[must_use]
    pub fn reach(&self) -> usize {
        let slices = self.left().iter().take(vectored::MOST);
        slices.map(VolatileSlice::len).sum()
    }

    /// Receives from the stream `fd` to the front, as [`Buffers::send`]; 0 at the stream's end.
    ///
    /// # Errors
    /// What `recvmmsg` says.
    pub fn receive(&self, fd: BorrowedFd<'_>, note: &Note<'_>) -> io::Result<usize> {
        vectored::receive(fd, self.left(), note)
    }

    /// As [`Buffers::write_to`], to a place in a file.
    ///
    /// # Errors
    /// What `pwritev` says.
    pub fn write_at(&self, fd: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        vectored::write_at(fd, self.left(), offset)
    }

    /// As [`Buffers::read_from`], from a place in a file.
    ///
    /// # Errors
    /// What `preadv` says.
    pub fn read_at(&self, fd: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        vectored::read_at(fd, self.left(), offset)
    }
}

impl<'a> From<VolatileSlice<'a>> for Buffers<'a> {
    fn from(slice: VolatileSlice<'a>) -> Self {
        let mut buffers = Self {
            length: slice.len(),
            ..Self::default()
        };
        buffers.slices.push(slice);
        buffers
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use super::*;

    /// `parts` in memory of the test's, as a guest's would be.
    fn buffers<'a>(parts: &'a mut [Vec<u8>]) -> Buffers<'a> {
        let length = parts.iter().map(Vec::len).sum();
        Buffers {
            slices: parts
                .iter_mut()
                .map(|part| VolatileSlice::from(part.as_mut_slice()))
                .collect(),
            first: 0,
            length,
        }
    }

    fn content(buffers: &Buffers<'_>) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        let count = buffers.peek(&mut bytes);
        bytes.truncate(count);
        bytes
    }

    #[test]
    fn what_is_used_up_is_gone_from_the_front() {
        let mut parts = vec![b"ab".to_vec(), vec![], b"cdef".to_vec(), b"g".to_vec()];
        let mut buffers = buffers(&mut parts);
        for expected in ["abcdefg", "bcdefg", "cdefg", "efg", "g", "", ""] {
            assert_eq!(content(&buffers), expected.as_bytes());
            assert_eq!(buffers.len(), expected.len());
            let step = if expected.len() == 5 || expected.len() == 3 {
                2
            } else {
                1
            };
            buffers.advance(step);
        }
        assert!(buffers.is_empty());
    }

    #[test]
    fn truncation_ends_inside_of_a_piece() {
        for length in 0..9_usize {
            let mut parts = vec![b"ab".to_vec(), b"cdef".to_vec(), b"g".to_vec()];
            let mut buffers = buffers(&mut parts);
            buffers.advance(1);
            buffers.truncate(length);
            let expected = b"bcdefg".get(..length).unwrap_or(b"bcdefg");
            assert_eq!(content(&buffers), expected);
            assert_eq!(buffers.len(), expected.len());
        }
    }

    #[test]
    fn copying_crosses_pieces_of_both() {
        let mut from = vec![b"ab".to_vec(), vec![], b"cdef".to_vec()];
        let mut parts = vec![vec![0; 3], vec![], vec![0; 1], vec![0; 1]];
        let mut to = buffers(&mut parts);
        assert_eq!(to.copy(buffers(&mut from)), 5);
        assert!(to.is_empty());
        drop(to);
        assert_eq!(parts.concat(), b"abcde");
    }

    #[test]
    fn filling_crosses_pieces_and_ends_where_they_do() {
        let mut parts = vec![vec![0; 2], vec![0; 3]];
        let mut buffers = buffers(&mut parts);
        assert_eq!(buffers.fill(b"abc"), 3);
        assert_eq!(buffers.fill(b"defg"), 2);
        drop(buffers);
        assert_eq!(parts, [b"ab".to_vec(), b"cde".to_vec()]);
    }

    #[test]
    fn two_parts_are_together_what_they_were_before() {
        for length in 0..9_usize {
            let mut parts = vec![b"ab".to_vec(), vec![], b"cdef".to_vec(), b"g".to_vec()];
            let mut buffers = buffers(&mut parts);
            buffers.advance(1);
            let rest = buffers.split_off(length);
            assert_eq!(
                (buffers.len(), rest.len()),
                (length.min(6), 6 - length.min(6))
            );
            assert_eq!(
                [content(&buffers), content(&rest)].concat(),
                b"bcdefg",
                "{length}"
            );
        }
    }

    #[test]
    fn a_place_in_a_file_is_read_and_written_in_one_call_each() {
        let mut file = tempfile::tempfile().unwrap();
        let mut parts = vec![b"ab".to_vec(), b"cde".to_vec()];
        let mut buffers = buffers(&mut parts);
        buffers.advance(1);
        assert_eq!(buffers.write_at(file.as_fd(), 3).unwrap(), 4);
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        assert_eq!(text, b"\0\0\0bcde");
        assert_eq!(buffers.read_at(file.as_fd(), 4).unwrap(), 3);
        // Neither has moved the file's own position.
        assert_eq!(file.stream_position().unwrap(), 7);
        assert!(buffers.read_at(file.as_fd(), u64::MAX).is_err());
        drop(buffers);
        assert_eq!(parts, [b"ac".to_vec(), b"dee".to_vec()]);
    }

    #[test]
    fn descriptors_are_read_and_written_in_one_call_each() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let mut parts = vec![b"ab".to_vec(), b"cde".to_vec()];
        let mut buffers = buffers(&mut parts);
        buffers.advance(1);
        assert_eq!(buffers.write_to(writer.as_fd()).unwrap(), 4);
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"bcde");
        writer.write_all(b"wxyz").unwrap();
        assert_eq!(buffers.read_from(reader.as_fd()).unwrap(), 4);
        drop(buffers);
        assert_eq!(parts, [b"aw".to_vec(), b"xyz".to_vec()]);
    }

    #[test]
    fn what_there_is_no_room_for_goes_elsewhere_with_the_same_call() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut parts = vec![b"ab".to_vec(), b"cde".to_vec()];
        let buffers = buffers(&mut parts);
        writer.write_all(b"stuvwxyz").unwrap();
        let mut rest = [0; 16];
        assert_eq!(
            buffers.read_from_with(reader.as_fd(), &mut rest).unwrap(),
            8
        );
        assert_eq!(&rest[..4], b"xyz\0");
        drop(buffers);
        assert_eq!(parts, [b"st".to_vec(), b"uvw".to_vec()]);
    }
}
