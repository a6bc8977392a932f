//! Whole messages with descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use wire::MAX_MESSAGE;

use crate::{Error, MAX_FDS, Result, socket};

/// The bytes of a message in one packet. A socket's default send buffer (208 KiB) holds three.
const FRAGMENT: usize = 64 * 1024;

/// The first byte of a packet: it ends a message.
const LAST: u8 = 0;

/// The first byte of a packet: more of the message follows. Such a packet is full.
const MORE: u8 = 1;

/// A packet: whether more of the message follows, the bytes, the descriptors.
type Part<'a> = (bool, &'a [u8], Vec<OwnedFd>);

/// One end of a connection that carries whole messages, each with up to [`MAX_FDS`] descriptors.
///
/// A message of at most 64 KiB is one packet; a longer one, up to [`wire::MAX_MESSAGE`], is cut
/// into full packets. Clones share the connection, and keep their messages apart from each other.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    sending: Arc<Mutex<()>>,
    receiving: Arc<Mutex<()>>,
}

impl Channel {
    /// Two connected ends.
    ///
    /// # Errors
    /// [`Error::Socket`] if there are no descriptors left.
    pub fn pair() -> Result<(Self, Self)> {
        let (left, right) =
            socket::pair().map_err(|error| Error::Socket("make a socket pair", error))?;
        Ok((left.into(), right.into()))
    }

    /// An end from its descriptor, which must be a Unix socket of type `SOCK_SEQPACKET`.
    #[must_use]
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self {
            socket,
            sending: Arc::default(),
            receiving: Arc::default(),
        }
    }

    /// Another handle to the same end.
    ///
    /// # Errors
    /// [`Error::Socket`] if there are no descriptors left.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            socket: self
                .socket
                .try_clone()
                .map_err(|error| Error::Socket("duplicate the socket", error))?,
            sending: Arc::clone(&self.sending),
            receiving: Arc::clone(&self.receiving),
        })
    }

    /// Limits how long [`Channel::send`] and [`Channel::receive`] wait for the other side; `None`
    /// is for ever. A message of several packets may take that long for each. Clones share it.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn set_timeout(&self, limit: Option<Duration>) -> Result<()> {
        socket::set_timeout(self.as_fd(), limit)
            .map_err(|error| Error::Socket("set a time limit", error))
    }

    /// Sends one message and duplicates of `fds`.
    ///
    /// # Errors
    /// [`Error::TooManyFds`], [`Error::Message`] if it does not encode or is too long,
    /// [`Error::TimedOut`], [`Error::Socket`] (a broken pipe if the other side is gone).
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<()> {
        if fds.len() > MAX_FDS {
            return Err(Error::TooManyFds(fds.len()));
        }
        let bytes = wire::encode(message)?;
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut fragment, mut rest) = bytes.split_at_checked(FRAGMENT).unwrap_or((&bytes, &[]));
        let mut fds = fds;
        loop {
            let kind = if rest.is_empty() { LAST } else { MORE };
            let packet = [&[kind], fragment].concat();
            socket::send(self.as_fd(), &packet, fds).map_err(|error| failed("send", error))?;
            if rest.is_empty() {
                return Ok(());
            }
            fds = &[];
            (fragment, rest) = rest.split_at_checked(FRAGMENT).unwrap_or((rest, &[]));
        }
    }

    /// Receives one message and its descriptors, which are close-on-exec; `None` if the other side
    /// is gone. Whatever the error, descriptors that came along are closed.
    ///
    /// # Errors
    /// [`Error::Protocol`] or [`Error::Message`] if the other side sent nonsense, after which the
    /// channel is of no further use; [`Error::TimedOut`]; [`Error::Socket`].
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let _whole = self
            .receiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut buffer = vec![0; FRAGMENT.saturating_add(1)];
        let Some((mut more, bytes, fds)) = self.receive_packet(&mut buffer)? else {
            return Ok(None);
        };
        if !more {
            return Ok(Some((wire::decode(bytes)?, fds)));
        }
        let mut message = bytes.to_vec();
        while more {
            if message.len() > MAX_MESSAGE {
                return Err(wire::Error::TooLong(message.len()).into());
            }
            let Some((next, bytes, extra)) = self.receive_packet(&mut buffer)? else {
                return Err(Error::Protocol("it left in the middle of a message"));
            };
            if !extra.is_empty() {
                return Err(Error::Protocol("descriptors in the middle of a message"));
            }
            message.extend_from_slice(bytes);
            more = next;
        }
        Ok(Some((wire::decode(&message)?, fds)))
    }

    /// Receives one packet; `None` if the other side is gone.
    fn receive_packet<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<Part<'a>>> {
        let packet = match socket::receive(self.as_fd(), buffer) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            other => other.map_err(|error| failed("receive", error))?,
        };
        if packet.truncated {
            return Err(Error::Protocol(
                "a packet too long or with too many descriptors",
            ));
        }
        if packet.fds.len() > MAX_FDS {
            return Err(Error::Protocol("too many descriptors"));
        }
        let Some((kind, bytes)) = buffer.get(..packet.length).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        match *kind {
            LAST => Ok(Some((false, bytes, packet.fds))),
            MORE if bytes.len() == FRAGMENT => Ok(Some((true, bytes, packet.fds))),
            _ => Err(Error::Protocol("a packet that is no part of a message")),
        }
    }
}

/// Tells a time limit from other failures.
fn failed(operation: &'static str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::TimedOut,
        _ => Error::Socket(operation, error),
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self::from_fd(socket)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
    }
}
