//! The guest's memory: a memfd, mapped here and, by the device, there.

#![expect(unsafe_code, reason = "the memory is shared with another process")]

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::Error;

/// The guest-physical address of the first byte. Not 0, so that 0 is outside.
pub const BASE: u64 = 0x10_0000;

/// Guest memory of one region, shared with whoever has the memfd.
#[derive(Debug)]
pub struct Memory {
    fd: OwnedFd,
    start: NonNull<u8>,
    size: usize,
    next: AtomicU64,
}

// SAFETY: the mapping is not bound to a thread, and all access is by raw copies and atomics.
unsafe impl Send for Memory {}
// SAFETY: as above; that two threads race for the same bytes is as with a device and its driver.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroed memory of `size` bytes at [`BASE`].
    ///
    /// # Errors
    /// What `memfd_create`, `ftruncate` or `mmap` say.
    pub fn new(size: usize) -> Result<Self, Error> {
        let fd =
            memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).map_err(Error::system("memfd_create"))?;
        let length = i64::try_from(size).map_err(|_| Error::Size(size))?;
        nix::unistd::ftruncate(&fd, length).map_err(Error::system("ftruncate"))?;
        let bytes = NonZeroUsize::new(size).ok_or(Error::Size(size))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping where the kernel chooses; it replaces nothing.
        let start = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, &fd, 0) }
            .map_err(Error::system("mmap"))?;
        Ok(Self {
            fd,
            start: start.cast(),
            size,
            next: AtomicU64::new(BASE),
        })
    }

    /// The memfd.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The address at which this process sees the first byte: vhost-user's "user address".
    #[must_use]
    pub fn user_address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    /// Sets `length` bytes aside for good; their guest-physical address, a multiple of 4096.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn allocate(&self, length: usize) -> Result<u64, Error> {
        let pages = (length as u64).div_ceil(4096) * 4096;
        let address = self.next.fetch_add(pages, Ordering::Relaxed);
        self.at(address, length)?;
        Ok(address)
    }

    fn at(&self, address: u64, length: usize) -> Result<NonNull<u8>, Error> {
        let outside = || Error::OutOfMemory { address, length };
        let offset = address.checked_sub(BASE).ok_or_else(outside)?;
        let offset = usize::try_from(offset).map_err(|_| outside())?;
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(outside());
        }
        // SAFETY: offset + length is within the mapping, as just checked.
        Ok(unsafe { self.start.add(offset) })
    }

    /// Copies into guest memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let to = self.at(address, bytes.len())?;
        // SAFETY: `to` has room for these bytes, and no Rust reference points into the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies out of guest memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let from = self.at(address, bytes.len())?;
        // SAFETY: `from` has as many bytes, and no Rust reference points into the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn index(&self, address: u64) -> Result<&AtomicU16, Error> {
        let at = self.at(address, 2)?;
        if !address.is_multiple_of(2) {
            return Err(Error::OutOfMemory { address, length: 2 });
        }
        // SAFETY: in bounds and aligned (the mapping is page-aligned); lives as long as `self`.
        Ok(unsafe { AtomicU16::from_ptr(at.as_ptr().cast()) })
    }

    /// Reads a ring's 16-bit field; nothing after it is read before it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], also if `address` is odd.
    pub fn load(&self, address: u64) -> Result<u16, Error> {
        Ok(u16::from_le(self.index(address)?.load(Ordering::SeqCst)))
    }

    /// Writes a ring's 16-bit field; everything before it is seen before it.
    ///
    /// # Errors
    /// As [`Memory::load`].
    pub fn store(&self, address: u64, value: u16) -> Result<(), Error> {
        self.index(address)?.store(value.to_le(), Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this mapping, whole, made in `new`; every borrow of `self` has ended.
        let _ = unsafe { munmap(self.start.cast(), self.size) };
    }
}
