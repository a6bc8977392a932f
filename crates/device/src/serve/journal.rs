//! Memory that outlives the process, where a device writes down what its successor has to know.
//!
//! It is a file of memory that the supervisor makes, and keeps while one process after the other
//! maps it. A process may be killed between any two instructions: everything that it stored before
//! is there, nothing of what it would have stored after. So a record is written in one place while
//! another says whether it counts, and that one is [stored](Journal::store) as a whole.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::buffers::Buffers;

/// Memory that a successor will see. Offsets are in bytes. What is outside of it reads as zero, and
/// writing there does nothing.
#[derive(Debug)]
pub struct Journal {
    region: MmapRegion<()>,
}

impl Journal {
    /// Maps the first `size` bytes of `file`, which nobody may shorten.
    ///
    /// # Errors
    /// If there are fewer, or they cannot be mapped.
    pub fn map(file: OwnedFd, size: usize) -> io::Result<Self> {
        let file = File::from(file);
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if length < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let file = FileOffset::new(file, 0);
        let region = MmapRegion::from_file(file, size).map_err(io::Error::other)?;
        Ok(Self { region })
    }

    /// The number at `offset`, a multiple of 4.
    #[must_use]
    pub fn load(&self, offset: usize) -> u32 {
        let slice = self.region.as_volatile_slice();
        slice.load(offset, Ordering::Acquire).unwrap_or(0)
    }

    /// Stores a number at `offset`, a multiple of 4, after everything that was written before.
    pub fn store(&self, offset: usize, number: u32) {
        let slice = self.region.as_volatile_slice();
        let _ = slice.store(number, offset, Ordering::Release);
    }

    /// The numbers from `offset` on.
    #[must_use]
    pub fn read<const N: usize>(&self, offset: usize) -> [u32; N] {
        let mut numbers = [0; N];
        if let Some(slice) = self.slice(offset, size_of_val(&numbers)) {
            slice.copy_to(&mut numbers);
        }
        numbers
    }

    /// Writes `numbers` from `offset` on, not as a whole.
    pub fn write(&self, offset: usize, numbers: &[u32]) {
        if let Some(slice) = self.slice(offset, size_of_val(numbers)) {
            slice.copy_from(numbers);
        }
    }

    /// `length` bytes from `offset` on.
    #[must_use]
    pub fn part(&self, offset: usize, length: usize) -> Buffers<'_> {
        let slice = self.slice(offset, length);
        slice.map_or_else(Buffers::default, Buffers::from)
    }

    /// The [`Note`] at `offset`, a multiple of 8.
    #[must_use]
    pub fn note(&self, offset: usize) -> Option<Note<'_>> {
        let slice = self.slice(offset, Note::SIZE)?;
        let aligned = slice.ptr_guard().as_ptr().addr().is_multiple_of(8);
        aligned.then_some(Note(slice))
    }

    fn slice(&self, offset: usize, length: usize) -> Option<VolatileSlice<'_>> {
        self.region.get_slice(offset, length).ok()
    }
}

/// Where the kernel notes how much one call has moved, before the call returns: a process that is
/// killed in the middle of it, which it cannot be before the call's work is done, leaves behind how
/// far it came. It is a `struct mmsghdr` (recvmmsg(2), sendmmsg(2)).
#[derive(Debug)]
pub struct Note<'a>(VolatileSlice<'a>);

impl Note<'_> {
    /// Bytes that it takes.
    pub const SIZE: usize = 64;

    /// Offset of `msg_len`.
    const COUNT: usize = 56;

    /// Bytes that the call moved; 0 if it failed, was not made, or met the end of the stream.
    #[must_use]
    pub fn count(&self) -> usize {
        let count: u32 = self.0.load(Self::COUNT, Ordering::Acquire).unwrap_or(0);
        usize::try_from(count).unwrap_or(0)
    }

    /// Forgets the last call.
    pub fn clear(&self) {
        let _ = self.0.store(0_u32, Self::COUNT, Ordering::Release);
    }

    /// Fills in the `count` pieces at `vectors`, and returns where the header is.
    pub(super) fn header(&self, vectors: u64, count: u64) -> *mut u8 {
        // struct user_msghdr: name and its length, vectors and their number, control data and its
        // length, flags; then the count.
        let header = [0, 0, vectors, count, 0, 0, 0, 0];
        self.0.copy_from(&header);
        self.0.ptr_guard_mut().as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn journal() -> (Journal, OwnedFd) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let fd = OwnedFd::from(file);
        (Journal::map(fd.try_clone().unwrap(), 4096).unwrap(), fd)
    }

    #[test]
    fn a_successor_reads_what_was_written() {
        let (journal, file) = journal();
        journal.write(8, &[1, 2, 3]);
        journal.store(20, 4);
        drop(journal);
        let journal = Journal::map(file, 4096).unwrap();
        assert_eq!(journal.read(8), [1, 2, 3, 4]);
        assert_eq!(journal.load(12), 2);
    }

    #[test]
    fn what_is_outside_is_neither_read_nor_written() {
        let (journal, file) = journal();
        journal.write(4092, &[1, 2]);
        journal.store(4096, 1);
        journal.store(usize::MAX, 1);
        assert_eq!(journal.read(4092), [0, 0]);
        assert_eq!(journal.load(4096), 0);
        assert!(journal.part(4000, 97).is_empty());
        assert!(journal.note(4040).is_none());
        assert!(journal.note(4).is_none());
        Journal::map(file, 4097).unwrap_err();
    }

    #[test]
    fn the_kernel_notes_what_was_sent_and_received() {
        let (journal, _) = journal();
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let note = journal.note(64).unwrap();
        journal.part(200, 5).fill(b"hello");
        assert_eq!(journal.part(200, 5).send(ours.as_fd(), &note).unwrap(), 5);
        assert_eq!(note.count(), 5);
        let mut bytes = [0; 5];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");

        let into = journal.part(300, 10);
        into.receive(ours.as_fd(), &note).unwrap_err();
        assert_eq!(note.count(), 0);
        theirs.write_all(b"good day").unwrap();
        assert_eq!(into.receive(ours.as_fd(), &note).unwrap(), 8);
        assert_eq!(note.count(), 8);
        let mut bytes = [0; 8];
        into.peek(&mut bytes);
        assert_eq!(&bytes, b"good day");
        note.clear();
        assert_eq!(note.count(), 0);
        drop(theirs);
        assert_eq!(into.receive(ours.as_fd(), &note).unwrap(), 0);
    }
}
