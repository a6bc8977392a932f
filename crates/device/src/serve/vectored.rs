//! Reading and writing descriptors from and to guest memory, without a copy in between.

#![allow(
    unsafe_code,
    reason = "the kernel is handed addresses in guest memory, which no safe call takes"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use smallvec::SmallVec;
use vm_memory::VolatileSlice;

use super::journal::Note;

/// Slices in one call: a chain of a queue of 256 has fewer. What does not fit is for the next call; the
/// kernel takes 1024.
pub(super) const MOST: usize = 256;

type Vectors = SmallVec<[libc::iovec; 24]>;

fn vectors(slices: &[VolatileSlice<'_>]) -> (Vectors, libc::c_int) {
    let vector = |slice: &VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    let vectors: Vectors = slices.iter().take(MOST).map(vector).collect();
    let count = libc::c_int::try_from(vectors.len()).unwrap_or(0);
    (vectors, count)
}

/// writev(2) of guest memory.
pub(super) fn write(fd: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (vectors, count) = vectors(slices);
    // SAFETY: each of the `count` vectors is a `VolatileSlice`, which is memory that is mapped for
    // as long as the slice lives. It is memory of the guest's and nothing of Rust's, so it does not
    // matter that the guest may change it while the kernel reads it.
    let written = unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), count) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// readv(2) into guest memory, and into `rest` what that has no room for. Nothing is read into `rest`
/// where there are more slices than fit one call.
pub(super) fn read(
    fd: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    rest: &mut [u8],
) -> io::Result<usize> {
    let (mut vectors, mut count) = vectors(slices);
    if slices.len() <= MOST && !rest.is_empty() {
        vectors.push(libc::iovec {
            iov_base: rest.as_mut_ptr().cast(),
            iov_len: rest.len(),
        });
        count = count.saturating_add(1);
    }
    // SAFETY: as in `write`; the memory is mapped for writing, as all guest memory is, and no
    // reference of Rust's points into it. The vector behind them is `rest`, which is borrowed
    // mutably for the length of the call.
    let read = unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), count) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// sendmmsg(2) of guest memory to a stream, as one message, without waiting.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    note: &Note<'_>,
) -> io::Result<usize> {
    message(libc::SYS_sendmmsg, fd, slices, note)
}

/// recvmmsg(2) from a stream into guest memory, as one message, without waiting.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    note: &Note<'_>,
) -> io::Result<usize> {
    message(libc::SYS_recvmmsg, fd, slices, note)
}

/// The system call itself: musl makes one of another kind of it, whose result the kernel does not
/// note.
fn message(
    call: libc::c_long,
    fd: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    note: &Note<'_>,
) -> io::Result<usize> {
    let (vectors, _) = vectors(slices);
    let header = note.header(vectors.as_ptr().addr() as u64, vectors.len() as u64);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let timeout = std::ptr::null::<libc::timespec>();
    // SAFETY: `header` is a `struct mmsghdr` in memory that is mapped for as long as `note` lives,
    // aligned as `Journal::note` saw to, and the only one of it (1). It names `vectors`, which live
    // until the call returns and each of which is mapped memory as in `write` and `read`, and
    // nothing else. It is shared with no process that runs, and if one changed it, it would name
    // addresses of this process, which the kernel checks. recvmmsg takes no time limit, and sendmmsg
    // no fifth argument.
    let done = unsafe { libc::syscall(call, fd.as_raw_fd(), header, 1, flags, timeout) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(note.count())
}

/// `offset` as the kernel takes it.
fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// pwritev(2) of guest memory.
pub(super) fn write_at(
    fd: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let (vectors, count) = vectors(slices);
    let offset = position(offset)?;
    // SAFETY: as in `write`.
    let written = unsafe { libc::pwritev(fd.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// preadv(2) into guest memory.
pub(super) fn read_at(
    fd: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let (vectors, count) = vectors(slices);
    let offset = position(offset)?;
    // SAFETY: as in `read`.
    let read = unsafe { libc::preadv(fd.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}
