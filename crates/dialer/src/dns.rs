//! The guest's questions to the host's name servers.
//!
//! Each attempt leaves from a socket of its own, and so from a random port; an answer must come
//! from the server that was asked, with the question's identifier and its text (RFC 5452, section
//! 9.1). Questions and answers pass unchanged.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use wire::net::{Datagram, Kind};

use crate::answer::{HEADER, Worth, worth};
use crate::deadlines::Deadlines;
use crate::error::{End, Error};
use crate::link::Link;
use crate::outside::{self, Carrier};
use crate::poller::{Poller, Token};

/// At most this many at a time; further ones are lost, and the guest asks again.
const MAX: usize = 1024;

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often all servers are asked.
const ROUNDS: usize = 3;

/// The longest answer that fits a datagram of UDP over IPv4 (RFC 768).
const LONGEST: usize = 65507;

/// How a server was asked in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vain {
    /// It cannot be asked, or does not want to be.
    Refused,
    /// It said nothing.
    Silent,
}

/// A question that waits for an answer.
#[derive(Debug)]
struct Question {
    guest: SocketAddr,
    /// Whom the guest asked.
    remote: SocketAddr,
    text: Vec<u8>,
    /// Which server was asked first.
    first: usize,
    /// Servers that were asked before this one, counted over all rounds.
    attempt: usize,
    /// An answer that another server may better.
    poor: Option<Vec<u8>>,
}

/// A question on its way.
#[derive(Debug)]
struct Asked {
    question: Question,
    socket: UdpSocket,
    deadline: Instant,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Questions {
    servers: Vec<SocketAddr>,
    /// Which of them is asked first: another one after it was asked in vain.
    first: usize,
    all: HashMap<u64, Asked>,
    deadlines: Deadlines<u64>,
    next: u64,
    buffer: Vec<u8>,
}

impl Questions {
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            first: 0,
            all: HashMap::new(),
            deadlines: Deadlines::new(),
            next: 0,
            buffer: vec![0; LONGEST],
        }
    }

    /// Whom to ask, in this order.
    pub(crate) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Asks others from now on.
    pub(crate) fn set_servers(&mut self, servers: Vec<SocketAddr>) {
        self.servers = servers;
        self.first = 0;
    }

    /// When the first server has taken too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// Asks what the guest asks.
    pub(crate) fn ask(
        &mut self,
        poller: &Poller,
        link: &Link,
        datagram: &Datagram<'_>,
    ) -> Result<(), End> {
        if datagram.payload.len() < HEADER || self.all.len() >= MAX {
            return Ok(());
        }
        let question = Question {
            guest: datagram.guest,
            remote: datagram.remote,
            text: datagram.payload.to_vec(),
            first: self.first,
            attempt: 0,
            poor: None,
        };
        self.attempt(poller, link, question, Vain::Refused)
    }

    /// Something happened to a question's socket.
    pub(crate) fn progress(
        &mut self,
        poller: &Poller,
        link: &Link,
        number: u64,
    ) -> Result<(), End> {
        let Some(asked) = self.all.get(&number) else {
            return Ok(());
        };
        let length = match asked.socket.recv(&mut self.buffer) {
            Ok(length) => length,
            Err(error) => {
                return match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN | Errno::EINTR) => Ok(()),
                    _ => self.try_another(poller, link, number, Vain::Refused),
                };
            }
        };
        let answer = self.buffer.get(..length).unwrap_or_default();
        match worth(&asked.question.text, answer) {
            Worth::Foreign => Ok(()),
            Worth::Good => {
                asked.question.answer(link, answer)?;
                self.take(number);
                Ok(())
            }
            Worth::Poor => {
                let answer = answer.to_vec();
                if let Some(asked) = self.all.get_mut(&number) {
                    asked.question.poor = Some(answer);
                }
                self.try_another(poller, link, number, Vain::Refused)
            }
        }
    }

    /// Goes on with those whose server has taken too long.
    pub(crate) fn expire(&mut self, poller: &Poller, link: &Link, now: Instant) -> Result<(), End> {
        while let Some(number) = self.deadlines.due(now) {
            self.try_another(poller, link, number, Vain::Silent)?;
        }
        Ok(())
    }

    /// Asks the next server; `last` is how the last one was in vain.
    fn try_another(
        &mut self,
        poller: &Poller,
        link: &Link,
        number: u64,
        last: Vain,
    ) -> Result<(), End> {
        let Some(mut question) = self.take(number) else {
            return Ok(());
        };
        let is_first = question.attempt == 0 && question.first == self.first;
        if is_first && question.poor.is_none() {
            self.first = self.first.wrapping_add(1);
        }
        question.attempt = question.attempt.saturating_add(1);
        self.attempt(poller, link, question, last)
    }

    /// Asks servers until one takes the question, or all were asked in vain.
    fn attempt(
        &mut self,
        poller: &Poller,
        link: &Link,
        mut question: Question,
        mut last: Vain,
    ) -> Result<(), End> {
        let servers = self.servers.len();
        while question.attempt < servers.saturating_mul(ROUNDS) {
            // After each round a poor answer is better than another round.
            let round_over = question.attempt.checked_rem(servers) == Some(0);
            if question.attempt > 0 && round_over && question.poor.is_some() {
                break;
            }
            let turn = question.first.wrapping_add(question.attempt);
            let index = turn.checked_rem(servers).unwrap_or(0);
            let Some(server) = self.servers.get(index).copied() else {
                break;
            };
            match send(server, &question.text) {
                Ok(socket) => return Ok(self.wait(poller, question, socket)?),
                Err(_) => last = Vain::Refused,
            }
            question.attempt = question.attempt.saturating_add(1);
        }
        match (&question.poor, last) {
            (Some(answer), _) => question.answer(link, answer),
            (None, Vain::Silent) => Ok(()),
            // What the guest asked is there, but nobody at its port. Of a host that cannot be
            // reached its resolver would not hear (ip(7), `IP_RECVERR`), and wait.
            (None, Vain::Refused) => question.tell(link, Kind::Refused, &[]),
        }
    }

    fn wait(
        &mut self,
        poller: &Poller,
        question: Question,
        socket: UdpSocket,
    ) -> Result<(), Error> {
        let number = self.next;
        self.next = number.wrapping_add(1);
        poller.add(&socket, Token::Question(number), EpollFlags::EPOLLIN)?;
        let now = Instant::now();
        let deadline = now.checked_add(PATIENCE).unwrap_or(now);
        self.deadlines.insert(deadline, number);
        let asked = Asked {
            question,
            socket,
            deadline,
        };
        self.all.insert(number, asked);
        Ok(())
    }

    fn take(&mut self, number: u64) -> Option<Question> {
        let asked = self.all.remove(&number)?;
        self.deadlines.remove(asked.deadline, number);
        Some(asked.question)
    }
}

impl Question {
    fn answer(&self, link: &Link, answer: &[u8]) -> Result<(), End> {
        self.tell(link, Kind::Dns, answer)
    }

    fn tell(&self, link: &Link, kind: Kind, payload: &[u8]) -> Result<(), End> {
        link.send(&Datagram {
            guest: self.guest,
            remote: self.remote,
            kind,
            payload,
        })
    }
}

/// Sends a question from a new socket.
fn send(server: SocketAddr, question: &[u8]) -> Result<UdpSocket, Errno> {
    let socket = outside::datagrams(Carrier::Udp, server.is_ipv6())?;
    let sent = socket.connect(server).and_then(|()| socket.send(question));
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    sent.map(|_| socket).map_err(errno)
}
