//! The socket over which datagrams come from the network device and go to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::epoll::EpollFlags;
use wire::net::{Datagram, MAX_DATAGRAM};

use crate::error::{End, Error};
use crate::message;
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
        message::send(self.0.as_fd(), packet, None).map(drop)
    }

    /// The device's next datagram, if there is one.
    pub(crate) fn receive<'b>(
        &self,
        buffer: &'b mut [u8; MAX_DATAGRAM],
    ) -> Result<Option<Datagram<'b>>, End> {
        let packet = message::receive(self.as_fd(), NAME, buffer)?;
        let datagram = packet.map(wire::decode).transpose();
        Ok(datagram.map_err(|error| Error::Message(NAME, error))?)
    }
}

/// What goes before the payload, at most; see [`MAX_DATAGRAM`].
const HEAD: usize = 128;

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
