//! TCP ports of the host that lead to the guest.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use wire::net::Tell;

use crate::error::Error;
use crate::poller::{Poller, Token};
use crate::streams::Answer;

/// Connections of one port that are taken before others have their turn.
const AT_ONCE: usize = 16;

/// How long none is taken after the kernel had no descriptor for one.
const REST: Duration = Duration::from_millis(100);

/// Listening sockets, each with the guest's port.
#[derive(Debug)]
pub(crate) struct Listeners {
    all: Vec<(TcpListener, u16)>,
    is_open: bool,
    rests_until: Option<Instant>,
}

impl Listeners {
    pub(crate) fn new(all: Vec<(TcpListener, u16)>, poller: &Poller) -> Result<Self, Error> {
        for (number, (socket, _)) in (0..).zip(&all) {
            socket
                .set_nonblocking(true)
                .map_err(|error| Error::System("use a published port", error))?;
            poller.add(socket, Token::Listener(number), EpollFlags::EPOLLIN)?;
        }
        Ok(Self {
            all,
            is_open: true,
            rests_until: None,
        })
    }

    /// When connections are taken again.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Takes connections from now on, or leaves them where they are, if `is_full`.
    pub(crate) fn settle(
        &mut self,
        poller: &Poller,
        now: Instant,
        is_full: bool,
    ) -> Result<(), Error> {
        self.rests_until = self.rests_until.filter(|until| *until > now);
        let open = !is_full && self.rests_until.is_none();
        if open == self.is_open {
            return Ok(());
        }
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, open);
        for (number, (socket, _)) in (0..).zip(&self.all) {
            poller.change(socket, Token::Listener(number), flags)?;
        }
        self.is_open = open;
        Ok(())
    }

    /// Takes connections that wait at a port.
    pub(crate) fn accept(&mut self, number: u64, now: Instant) -> Vec<Answer> {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let Some((socket, port)) = self.all.get(index) else {
            return Vec::new();
        };
        let mut answers = Vec::new();
        for _ in 0..AT_ONCE {
            match socket.accept() {
                Ok((stream, peer)) => answers.extend(accepted(stream, peer, *port)),
                Err(error) if is_exhausted(&error) => {
                    self.rests_until = now.checked_add(REST);
                    break;
                }
                // Whoever connected may have gone meanwhile.
                Err(_) => break,
            }
        }
        answers
    }
}

fn accepted(stream: TcpStream, peer: SocketAddr, port: u16) -> Option<Answer> {
    stream.set_nonblocking(true).ok()?;
    stream.set_nodelay(true).ok()?;
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    Some((Tell::Accepted { port, peer }, Some(stream.into())))
}

fn is_exhausted(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}
