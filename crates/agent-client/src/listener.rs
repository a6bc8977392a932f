//! A TCP port of the guest that the host listens on.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    os::unix::net::UnixStream,
};

use wire::agent::{Event, Request};

use crate::{ANSWER_LIMIT, Client, Error};

/// Listens in the guest until it is dropped.
#[derive(Debug)]
pub struct Listener {
    client: Client,
    /// Its end is the listener's.
    _control: UnixStream,
    id: u64,
    port: u16,
}

impl Listener {
    pub(crate) fn bind(client: &Client, port: u16) -> Result<Self, Error> {
        // Several programs may talk to one agent, so a counter would not do.
        let id = RandomState::new().build_hasher().finish();
        let request = Request::Listen { listener: id, port };
        let (control, event) = client.request(request, Some(ANSWER_LIMIT))?;
        let Event::Listening { port } = event else {
            return Err(Error::Unexpected);
        };
        Ok(Self {
            client: client.clone(),
            _control: control,
            id,
            port,
        })
    }

    /// The port in the guest.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Waits for a program in the guest to connect: the connection, and the program's end of it.
    ///
    /// # Errors
    /// If the guest is gone.
    pub fn accept(&self) -> Result<(UnixStream, SocketAddr), Error> {
        let request = Request::Accept { listener: self.id };
        match self.client.request(request, None)? {
            (stream, Event::Accepted { from }) => Ok((stream, from)),
            _ => Err(Error::Unexpected),
        }
    }
}
