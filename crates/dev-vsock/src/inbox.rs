//! Connection requests on their way from the control channel's thread to the device's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use wire::vsock::Stream;

/// Makes the device's loop call it.
#[derive(Debug)]
pub struct Wake(EventFd);

impl Wake {
    /// A fresh one.
    ///
    /// # Errors
    /// What `eventfd2` says.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    /// Raises an edge.
    pub fn wake(&self) {
        // It fails only if 2^64 - 2 wakes are unread: then it is awake.
        let _ = self.0.write(1);
    }

    /// Forgets that it was woken.
    pub fn clear(&self) {
        // It fails only if nobody woke it.
        let _ = self.0.read();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Streams that wait to be connected to a port of the guest.
#[derive(Debug)]
pub struct Inbox {
    wake: Wake,
    requests: Mutex<Vec<(Stream, UnixStream)>>,
}

impl Inbox {
    /// An empty one.
    ///
    /// # Errors
    /// What `eventfd2` says.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            wake: Wake::new()?,
            requests: Mutex::default(),
        })
    }

    /// Asks for `stream` to be connected to its port of the guest. If the guest refuses, the stream
    /// is closed. Numbers grow.
    pub fn connect(&self, wanted: Stream, stream: UnixStream) {
        self.lock().push((wanted, stream));
        self.wake.wake();
    }

    pub(crate) fn wake(&self) -> &Wake {
        &self.wake
    }

    pub(crate) fn take(&self) -> Vec<(Stream, UnixStream)> {
        self.wake.clear();
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Stream, UnixStream)>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
