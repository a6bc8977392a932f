//! The dialer, which has the sockets: what we ask of it, and what it tells.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use handoff::Channel;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, recv, send};
use wire::net::{Ask, Datagram, MAX_DATAGRAM, Tell};

/// The connections to the dialer.
pub(crate) struct Dialer {
    streams: Channel,
    datagrams: OwnedFd,
    /// There may be something to receive.
    pub(crate) told: bool,
    /// There may be a datagram to receive.
    pub(crate) arrived: bool,
    buffer: Vec<u8>,
}

impl Dialer {
    /// # Errors
    /// If the sockets cannot be made not to block.
    pub(crate) fn new(streams: OwnedFd, datagrams: OwnedFd) -> io::Result<Self> {
        for socket in [&streams, &datagrams] {
            fcntl(socket, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            streams: streams.into(),
            datagrams,
            told: true,
            arrived: true,
            buffer: vec![0; MAX_DATAGRAM],
        })
    }

    pub(crate) fn streams(&self) -> BorrowedFd<'_> {
        self.streams.as_fd()
    }

    pub(crate) fn datagrams(&self) -> BorrowedFd<'_> {
        self.datagrams.as_fd()
    }

    /// Asks; false if the dialer is busy, or gone.
    pub(crate) fn ask(&self, ask: Ask) -> bool {
        self.streams.send(&ask, &[]).is_ok()
    }

    /// What it told, if there is something, with the stream that came along.
    pub(crate) fn listen(&mut self) -> Option<(Tell, Option<TcpStream>)> {
        if !self.told {
            return None;
        }
        match self.streams.receive::<Tell>() {
            Ok(Some((tell, streams))) => {
                let stream = streams.into_iter().next().map(TcpStream::from);
                return Some((tell, stream));
            }
            Err(handoff::Error::TimedOut) => {}
            Ok(None) => device::report("the dialer is gone: there are no new connections"),
            Err(error) => device::report(&format!("the dialer sent nonsense: {error}")),
        }
        self.told = false;
        None
    }

    /// Sends a datagram. One that cannot be sent now is lost, as on any network.
    pub(crate) fn send(&mut self, datagram: &Datagram<'_>) {
        if let Ok(bytes) = wire::encode_into(datagram, &mut self.buffer) {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let _ = send(self.datagrams.as_raw_fd(), bytes, flags);
        }
    }

    /// The next datagram, if there is one.
    pub(crate) fn receive(&mut self) -> Option<Datagram<'_>> {
        if !self.arrived {
            return None;
        }
        loop {
            let received = recv(
                self.datagrams.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            );
            match received {
                Ok(length @ 1..) => {
                    let bytes = self.buffer.get(..length)?;
                    return match wire::decode(bytes) {
                        Ok(datagram) => Some(datagram),
                        Err(error) => {
                            device::report(&format!("the dialer sent nonsense: {error}"));
                            None
                        }
                    };
                }
                Err(Errno::EINTR) => {}
                // An end is no datagram either.
                _ => {
                    self.arrived = false;
                    return None;
                }
            }
        }
    }
}
