//! The host's end of a port.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use wire::console::{Input, LONGEST};

/// What arrived at a port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Something that was typed.
    Bytes(Vec<u8>),
    /// What the terminal's size is now.
    Size(crate::control::Size),
}

/// A port: a name, and a socket that keeps the boundaries of messages.
#[derive(Debug)]
pub struct Port {
    name: String,
    socket: OwnedFd,
}

impl Port {
    /// A port of this name.
    #[must_use]
    pub const fn new(name: String, socket: OwnedFd) -> Self {
        Self { name, socket }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Passes on what the guest wrote. Its kernel waits for that with a CPU that does nothing else, so
    /// what the other end has no room for is lost, as with a terminal that is not plugged in.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        for piece in bytes.chunks(LONGEST) {
            if send(self.socket.as_raw_fd(), piece, flags).is_err() {
                return;
            }
        }
    }

    /// The next message that makes sense; none if there is none now.
    ///
    /// # Errors
    /// If there will never be one.
    pub(crate) fn read(&self) -> io::Result<Option<Arrived>> {
        let mut buffer = [0; LONGEST];
        loop {
            let flags = MsgFlags::MSG_DONTWAIT;
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, flags) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            match Input::parse(buffer.get(..length).unwrap_or_default()) {
                Some(Input::Bytes(bytes)) => return Ok(Some(Arrived::Bytes(bytes.to_vec()))),
                Some(Input::Size { rows, columns }) => {
                    let size = crate::control::Size { rows, columns };
                    return Ok(Some(Arrived::Size(size)));
                }
                None => {}
            }
        }
    }
}
