//! The host's end of a guest's `/dev/hvc0`.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use supervisor::Device;
use wire::console::{Input, LONGEST};

use crate::{Error, Size};

/// The name of the port in the guest.
const NAME: &str = "crumble.terminal";

/// A terminal of a guest's that is not a command's: what is read was written to it, and what is written
/// was typed. It ends with the machine. When nobody reads, what the guest writes is lost once a
/// socket's buffer is full.
#[derive(Debug)]
pub struct Terminal {
    socket: UnixStream,
    /// The end of a message that a reader had no room for.
    rest: Vec<u8>,
}

impl Terminal {
    /// Our end, and the device with the other.
    pub(crate) fn new() -> Result<(Self, Device), Error> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|errno| Error::Stream(errno.into()))?;
        let device = Device::console(vec![(NAME.to_owned(), theirs)]);
        let device = device.map_err(supervisor::Error::from)?;
        Ok((Self::from(ours), device))
    }

    /// Another handle of the same terminal. What one has read, no other reads.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::from(OwnedFd::from(self.socket.try_clone()?)))
    }

    /// Tells the guest how large the terminal is.
    ///
    /// # Errors
    /// If the machine has ended.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        let Size { rows, columns } = size;
        self.send(Input::Size { rows, columns })
    }

    /// A message is taken as a whole or not at all.
    fn send(&self, input: Input<'_>) -> io::Result<()> {
        (&self.socket).write(&input.encode()).map(drop)
    }
}

impl From<OwnedFd> for Terminal {
    fn from(socket: OwnedFd) -> Self {
        Self {
            socket: socket.into(),
            rest: Vec::new(),
        }
    }
}

impl Read for Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let mut message = [0; LONGEST];
            let length = self.socket.read(&mut message)?;
            self.rest = message.get(..length).unwrap_or_default().to_vec();
        }
        let length = self.rest.as_slice().read(buffer)?;
        self.rest.drain(..length);
        Ok(length)
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = LONGEST.saturating_sub(1);
        let bytes = bytes.get(..most).unwrap_or(bytes);
        if !bytes.is_empty() {
            self.send(Input::Bytes(bytes))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_a_stream_and_written_as_inputs() {
        let pair = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        );
        let (ours, theirs) = pair.unwrap();
        let (mut terminal, mut device) = (Terminal::from(ours), UnixStream::from(theirs));
        device.write_all(b"login: ").unwrap();
        let mut piece = [0; 3];
        let mut all: Vec<u8> = Vec::new();
        while all.len() < 7 {
            let length = terminal.read(&mut piece).unwrap();
            all.extend(&piece[..length]);
        }
        assert_eq!(all, b"login: ");
        terminal.write_all(&[b'x'; 1500]).unwrap();
        terminal
            .resize(Size {
                rows: 24,
                columns: 80,
            })
            .unwrap();
        let mut message = [0; LONGEST];
        for expected in [1024, 1500 - 1023 + 1] {
            assert_eq!(device.read(&mut message).unwrap(), expected);
            assert_eq!(message[..2], [0, b'x']);
        }
        assert_eq!(device.read(&mut message).unwrap(), 5);
        drop(device);
        assert_eq!(terminal.read(&mut piece).unwrap(), 0);
        assert!(terminal.write_all(b"x").is_err());
    }
}
