//! The one place where the dialer waits.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::error::{Error, system};

/// What is waited for. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The supervisor.
    Control,
    /// The network device, connections.
    Streams,
    /// The network device, datagrams.
    Datagrams,
    /// A published TCP port.
    Listener(u64),
    /// A TCP socket that is being connected.
    Connect(u64),
    /// A socket for datagrams.
    Flow(u64),
    /// A question to a name server.
    Question(u64),
}

/// Bits of a token that are its number; the rest is its kind. At a million a second they last for
/// two thousand years.
const NUMBER: u32 = 56;

impl Token {
    fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Control => (0, 0),
            Self::Streams => (1, 0),
            Self::Datagrams => (2, 0),
            Self::Listener(number) => (3, number),
            Self::Connect(number) => (4, number),
            Self::Flow(number) => (5, number),
            Self::Question(number) => (6, number),
        };
        kind << NUMBER | number
    }

    fn decode(data: u64) -> Self {
        let number = data & ((1 << NUMBER) - 1);
        match data >> NUMBER {
            0 => Self::Control,
            1 => Self::Streams,
            2 => Self::Datagrams,
            3 => Self::Listener(number),
            4 => Self::Connect(number),
            5 => Self::Flow(number),
            _ => Self::Question(number),
        }
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Poller(Epoll);

impl Poller {
    pub(crate) fn new() -> Result<Self, Error> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map(Self)
            .map_err(system("make an event loop"))
    }

    /// Waits for `flags` of `fd`; errors and hang-ups are always waited for.
    pub(crate) fn add(&self, fd: impl AsFd, token: Token, flags: EpollFlags) -> Result<(), Error> {
        self.0
            .add(fd, EpollEvent::new(flags, token.encode()))
            .map_err(system("wait for a socket"))
    }

    /// Waits for other `flags` of something that was added.
    pub(crate) fn change(
        &self,
        fd: impl AsFd,
        token: Token,
        flags: EpollFlags,
    ) -> Result<(), Error> {
        self.0
            .modify(fd, &mut EpollEvent::new(flags, token.encode()))
            .map_err(system("wait for a socket"))
    }

    /// Waits no more for what lives on in another process.
    pub(crate) fn forget(&self, fd: impl AsFd) -> Result<(), Error> {
        self.0
            .delete(fd)
            .map_err(system("stop waiting for a socket"))
    }

    /// What has happened, at the latest at `deadline`.
    pub(crate) fn wait(
        &self,
        deadline: Option<Instant>,
    ) -> Result<Vec<(Token, EpollFlags)>, Error> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.0.wait(&mut events, timeout(deadline)) {
            Err(Errno::EINTR) => 0,
            other => other.map_err(system("wait for events"))?,
        };
        let happened = events.iter().take(count);
        Ok(happened
            .map(|event| (Token::decode(event.data()), event.events()))
            .collect())
    }
}

/// Milliseconds until `deadline`, rounded up so that the last one does not spin.
fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else {
        return EpollTimeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let left = left.saturating_add(Duration::from_micros(999));
    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_what_they_were() {
        for token in [
            Token::Control,
            Token::Streams,
            Token::Datagrams,
            Token::Listener(7),
            Token::Connect(1 << 40),
            Token::Flow(3),
            Token::Question(0),
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
