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
use wire::net::{Datagram, Failure, Kind};

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

/// A header's length (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// Response codes with which another server may know more (RFC 1035, section 4.1.1).
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

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

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// It is no answer to this question.
    Foreign,
    /// Another server may know more.
    Poor,
    /// It settles the matter.
    Good,
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
        self.attempt(poller, link, question, Kind::Unreachable)
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
                    errno => {
                        let why = reason(errno.unwrap_or(Errno::UnknownErrno));
                        self.try_another(poller, link, number, why)
                    }
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
                self.try_another(poller, link, number, Kind::Unreachable)
            }
        }
    }

    /// Goes on with those whose server has taken too long.
    pub(crate) fn expire(&mut self, poller: &Poller, link: &Link, now: Instant) -> Result<(), End> {
        while let Some(number) = self.deadlines.due(now) {
            self.try_another(poller, link, number, Kind::Dns)?;
        }
        Ok(())
    }

    /// Asks the next server; `why` the last one was in vain, [`Kind::Dns`] if it said nothing.
    fn try_another(
        &mut self,
        poller: &Poller,
        link: &Link,
        number: u64,
        why: Kind,
    ) -> Result<(), End> {
        let Some(mut question) = self.take(number) else {
            return Ok(());
        };
        let is_first = question.attempt == 0 && question.first == self.first;
        if is_first && question.poor.is_none() {
            self.first = self.first.wrapping_add(1);
        }
        question.attempt = question.attempt.saturating_add(1);
        self.attempt(poller, link, question, why)
    }

    /// Asks servers until one takes the question, or all were asked in vain.
    fn attempt(
        &mut self,
        poller: &Poller,
        link: &Link,
        mut question: Question,
        mut why: Kind,
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
                Err(errno) => why = reason(errno),
            }
            question.attempt = question.attempt.saturating_add(1);
        }
        match (&question.poor, why) {
            (Some(answer), _) => question.answer(link, answer),
            (None, Kind::Dns) => Ok(()),
            (None, why) => question.tell(link, why, &[]),
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

/// What the guest is told when no server can be asked.
fn reason(errno: Errno) -> Kind {
    match outside::failure(errno) {
        Failure::Refused => Kind::Refused,
        _ => Kind::Unreachable,
    }
}

/// What `answer` is worth for `question`.
fn worth(question: &[u8], answer: &[u8]) -> Worth {
    let heads = [question, answer].map(<[u8]>::first_chunk::<HEADER>);
    let [Some([a, b, ..]), Some([c, d, flags, code, ..])] = heads else {
        return Worth::Foreign;
    };
    let code = code & 0x0f;
    let is_about_it = match (asked_text(question), asked_text(answer)) {
        (Some(asked), Some(repeated)) => asked.eq_ignore_ascii_case(repeated),
        // A server that did not understand a question need not repeat it.
        (Some(_), None) => code != 0,
        (None, _) => true,
    };
    let is_response = flags & 0x80 != 0;
    match code {
        _ if (a, b) != (c, d) || !is_response || !is_about_it => Worth::Foreign,
        SERVER_FAILURE | REFUSED => Worth::Poor,
        _ => Worth::Good,
    }
}

/// The question section of a message that has exactly one question: name, type and class (RFC
/// 1035, section 4.1.2).
fn asked_text(message: &[u8]) -> Option<&[u8]> {
    (message.get(4..6)? == [0, 1]).then_some(())?;
    let section = message.get(HEADER..)?;
    let mut end = 0_usize;
    loop {
        let length = *section.get(end)?;
        end = end.checked_add(1)?.checked_add(length.into())?;
        match length {
            0 => return section.get(..end.checked_add(4)?),
            // A longer one would be a pointer, to nothing before the first name.
            1..64 => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with one question.
    fn message(id: u16, response: u8, code: u8, name: &[u8]) -> Vec<u8> {
        let head = [response << 7, code, 0, 1, 0, 0, 0, 0, 0, 0];
        [&id.to_be_bytes(), &head[..], name, &[0, 1, 0, 1]].concat()
    }

    const NAME: &[u8] = b"\x07example\x03org\x00";

    #[test]
    fn an_answer_has_the_question_s_identifier_and_text() {
        let question = message(7, 0, 0, NAME);
        let worth = |answer: &[u8]| worth(&question, answer);
        assert_eq!(worth(&message(7, 1, 0, NAME)), Worth::Good);
        assert_eq!(
            worth(&message(7, 1, 0, b"\x07EXAMPLE\x03org\x00")),
            Worth::Good
        );
        assert_eq!(worth(&message(8, 1, 0, NAME)), Worth::Foreign);
        assert_eq!(worth(&message(7, 0, 0, NAME)), Worth::Foreign);
        assert_eq!(
            worth(&message(7, 1, 0, b"\x07exomple\x03org\x00")),
            Worth::Foreign
        );
        assert_eq!(worth(&message(7, 1, 0, b"\x07example\x00")), Worth::Foreign);
        assert_eq!(worth(&question[..11]), Worth::Foreign);
        assert_eq!(worth(&[]), Worth::Foreign);
    }

    #[test]
    fn servers_that_fail_or_refuse_give_poor_answers_and_no_such_name_is_a_good_one() {
        let question = message(7, 0, 0, NAME);
        for (code, expected) in [(2, Worth::Poor), (5, Worth::Poor), (3, Worth::Good)] {
            assert_eq!(worth(&question, &message(7, 1, code, NAME)), expected);
        }
        // FORMERR without the question.
        let bare = [0, 7, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(worth(&question, &bare), Worth::Good);
        let empty = [0, 7, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(worth(&question, &empty), Worth::Foreign);
    }

    #[test]
    fn a_name_that_does_not_end_or_points_somewhere_is_no_text() {
        for name in [&b"\x07exam"[..], b"\x3f", b"\xc0\x0c", b""] {
            let mut text = message(7, 0, 0, name);
            text.truncate(HEADER + name.len());
            assert_eq!(asked_text(&text), None, "{name:?}");
        }
        let many = [0, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(asked_text(&many), None);
    }
}
