//! The socket over which datagrams come from the network device and go to it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, recv, send};
use wire::net::{Datagram, MAX_DATAGRAM};

use crate::error::{End, Error, system};
use crate::poller::{Poller, Token};

/// The resource's name.
pub(crate) const NAME: &str = "datagrams";

/// The device's end of all datagrams.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    pub(crate) fn new(socket: OwnedFd, poller: &Poller) -> Result<Self, Error> {
        poller.add(&socket, Token::Datagrams, EpollFlags::EPOLLIN)?;
        Ok(Self(socket))
    }

    /// Sends a datagram to the device; it is lost if there is no room.
    pub(crate) fn send(&self, datagram: &Datagram<'_>) -> Result<(), End> {
        let mut buffer = vec![0; datagram.payload.len().saturating_add(HEAD)];
        let Ok(packet) = wire::encode_into(datagram, &mut buffer) else {
            return Ok(());
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.0.as_raw_fd(), packet, flags) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(End::Left),
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM) => Ok(()),
            Err(errno) => Err(system("answer the device")(errno).into()),
        }
    }

    /// The device's next datagram, if there is one.
    pub(crate) fn receive<'b>(
        &self,
        buffer: &'b mut [u8; MAX_DATAGRAM],
    ) -> Result<Option<Datagram<'b>>, End> {
        let length = match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(Errno::ECONNRESET) => return Err(End::Left),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            other => other.map_err(system("hear from the device"))?,
        };
        // Of one that is too long the end is missing, and so it is none.
        let datagram = wire::decode(buffer.get(..length).unwrap_or_default());
        Ok(Some(
            datagram.map_err(|error| Error::Datagram(NAME, error))?,
        ))
    }
}

/// What goes before the payload, at most; see [`MAX_DATAGRAM`].
const HEAD: usize = 128;

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
