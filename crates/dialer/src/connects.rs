//! TCP sockets that are being connected.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{getsockopt, sockopt};
use wire::net::{Failure, Tell};

use crate::deadlines::Deadlines;
use crate::error::Error;
use crate::outside::{self, Dialled};
use crate::poller::{Poller, Token};
use crate::streams::{Answer, NAME};

/// At most this many at a time.
const MAX: usize = 4096;

/// How long a host may take; Linux alone would wait for two minutes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one of several hosts may take before the next is tried.
const IMPATIENCE: Duration = Duration::from_secs(3);

/// One of them.
#[derive(Debug)]
struct Connect {
    id: u32,
    socket: OwnedFd,
    deadline: Instant,
    /// Where else to try, the next one last.
    others: Vec<SocketAddr>,
    patience: Duration,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Connects {
    /// By numbers that are never used again: an event may be of a socket that is gone.
    all: HashMap<u64, Connect>,
    numbers: HashMap<u32, u64>,
    deadlines: Deadlines<u64>,
    next: u64,
}

impl Connects {
    pub(crate) fn new() -> Self {
        Self {
            all: HashMap::new(),
            numbers: HashMap::new(),
            deadlines: Deadlines::new(),
            next: 0,
        }
    }

    /// When the first of them has taken too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// Begins to connect to the first of `addresses` that agrees; the answer, if there is one yet.
    pub(crate) fn begin(
        &mut self,
        poller: &Poller,
        id: u32,
        addresses: &[SocketAddr],
    ) -> Result<Option<Answer>, Error> {
        if self.numbers.contains_key(&id) {
            return Err(Error::Device(NAME, "an id that is in use"));
        }
        if self.all.len() >= MAX {
            return Ok(Some(failed(id, Failure::Exhausted)));
        }
        let others = addresses.iter().rev().copied().collect();
        let patience = match addresses {
            [_] => PATIENCE,
            _ => IMPATIENCE,
        };
        self.try_next(poller, id, others, patience, Failure::Unreachable)
    }

    /// Forgets a connection, if it is still being made.
    pub(crate) fn cancel(&mut self, id: u32) {
        if let Some(number) = self.numbers.get(&id).copied() {
            self.take(number);
        }
    }

    /// Something happened to a socket; the answer, if there is one now.
    pub(crate) fn progress(
        &mut self,
        poller: &Poller,
        number: u64,
    ) -> Result<Option<Answer>, Error> {
        let Some(connect) = self.take(number) else {
            return Ok(None);
        };
        match getsockopt(&connect.socket, sockopt::SocketError).map(Errno::from_raw) {
            Ok(Errno::UnknownErrno) => {
                poller.forget(&connect.socket)?;
                Ok(Some(connected(connect.id, connect.socket)))
            }
            Ok(errno) | Err(errno) => self.give_up(poller, connect, outside::failure(errno)),
        }
    }

    /// Gives up what has taken too long; the answers.
    pub(crate) fn expire(&mut self, poller: &Poller, now: Instant) -> Result<Vec<Answer>, Error> {
        let mut answers = Vec::new();
        while let Some(connect) = self.deadlines.due(now).and_then(|number| self.take(number)) {
            answers.extend(self.give_up(poller, connect, Failure::TimedOut)?);
        }
        Ok(answers)
    }

    fn give_up(
        &mut self,
        poller: &Poller,
        connect: Connect,
        why: Failure,
    ) -> Result<Option<Answer>, Error> {
        self.try_next(poller, connect.id, connect.others, connect.patience, why)
    }

    /// Tries one address after the other; `why` it failed so far.
    fn try_next(
        &mut self,
        poller: &Poller,
        id: u32,
        mut others: Vec<SocketAddr>,
        patience: Duration,
        mut why: Failure,
    ) -> Result<Option<Answer>, Error> {
        while let Some(address) = others.pop() {
            match outside::dial(address) {
                Ok(Dialled::Connected(socket)) => return Ok(Some(connected(id, socket))),
                Ok(Dialled::Connecting(socket)) => {
                    let now = Instant::now();
                    let connect = Connect {
                        id,
                        socket,
                        deadline: now.checked_add(patience).unwrap_or(now),
                        others,
                        patience,
                    };
                    return self.wait(poller, connect).map(|()| None);
                }
                Err(errno) => why = outside::failure(errno),
            }
        }
        Ok(Some(failed(id, why)))
    }

    fn wait(&mut self, poller: &Poller, connect: Connect) -> Result<(), Error> {
        let number = self.next;
        self.next = number.wrapping_add(1);
        let token = Token::Connect(number);
        poller.add(&connect.socket, token, EpollFlags::EPOLLOUT)?;
        self.deadlines.insert(connect.deadline, number);
        self.numbers.insert(connect.id, number);
        self.all.insert(number, connect);
        Ok(())
    }

    fn take(&mut self, number: u64) -> Option<Connect> {
        let connect = self.all.remove(&number)?;
        self.deadlines.remove(connect.deadline, number);
        self.numbers.remove(&connect.id);
        Some(connect)
    }
}

fn connected(id: u32, socket: OwnedFd) -> Answer {
    (Tell::Connected { id }, Some(socket))
}

/// What the device is told about a connection that there is not.
pub(crate) const fn failed(id: u32, why: Failure) -> Answer {
    (Tell::Failed { id, why }, None)
}
