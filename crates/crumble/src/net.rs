//! Ports of a machine, shaped like [`std::net`].

use std::{
    io::{self, ErrorKind},
    iter,
    net::SocketAddr,
    os::unix::net::UnixStream,
};

use crate::{FailureKind, Guest};

/// A TCP port of a machine that the host listens on, as [`std::net::TcpListener`]. Dropping it
/// ends that; connections that were accepted go on.
#[derive(Debug)]
pub struct Listener {
    inner: agent_client::Listener,
    guest: Guest,
}

impl Listener {
    pub(crate) fn bind(guest: &Guest, port: u16) -> io::Result<Self> {
        match guest.agent().listen(port) {
            Ok(inner) => Ok(Self {
                inner,
                guest: guest.clone(),
            }),
            Err(error) => Err(explain(error, guest)),
        }
    }

    /// Its port in the machine.
    #[must_use]
    pub const fn local_port(&self) -> u16 {
        self.inner.port()
    }

    /// Waits for a program in the machine to connect: the connection, and the program's address.
    /// Several threads may wait, and each gets a connection of its own.
    ///
    /// # Errors
    /// [`ErrorKind::NotConnected`] if the machine has ended.
    pub fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let accepted = self.inner.accept();
        accepted.map_err(|error| explain(error, &self.guest))
    }

    /// The connections of [`Listener::accept`], one after the other and without an end.
    pub fn incoming(&self) -> impl Iterator<Item = io::Result<UnixStream>> + '_ {
        iter::repeat_with(|| self.accept().map(|(stream, _)| stream))
    }
}

pub(crate) fn connect(guest: &Guest, port: u16) -> io::Result<UnixStream> {
    let connected = guest.agent().connect(port);
    connected.map_err(|error| explain(error, guest))
}

/// The standard library's error of the same meaning, with ours inside.
fn explain(error: agent_client::Error, guest: &Guest) -> io::Error {
    let kind = match &error {
        agent_client::Error::Refused { kind, .. } => match kind {
            FailureKind::ConnectionRefused => ErrorKind::ConnectionRefused,
            FailureKind::AddressInUse => ErrorKind::AddrInUse,
            _ => ErrorKind::Other,
        },
        error if error.is_loss() => ErrorKind::NotConnected,
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, guest.explain(error))
}
