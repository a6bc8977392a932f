//! The socket over which the network device asks for connections and gets them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::epoll::EpollFlags;
use wire::net::{Ask, Failure, Tell};

use crate::error::{End, Error};
use crate::message::{self, Sent};
use crate::poller::{Poller, Token};

/// The resource's name.
pub(crate) const NAME: &str = "streams";

/// Answers that may wait for the device; with more, nothing new is begun.
const MAX_WAITING: usize = 256;

/// No question is longer.
const LONGEST: usize = 128;

/// The first byte of a packet that is a whole message, as all of ours are: the device's end is a
/// `handoff::Channel`.
const WHOLE: u8 = 0;

/// What the device is told, and the socket that goes with it.
pub(crate) type Answer = (Tell, Option<OwnedFd>);

/// The device's end of all connections.
#[derive(Debug)]
pub(crate) struct Streams {
    socket: OwnedFd,
    waiting: VecDeque<Answer>,
    flags: EpollFlags,
}

impl Streams {
    pub(crate) fn new(socket: OwnedFd, poller: &Poller) -> Result<Self, Error> {
        let flags = EpollFlags::EPOLLIN;
        poller.add(&socket, Token::Streams, flags)?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
            flags,
        })
    }

    /// Whether the device is to take what there is before more is begun.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// What the device asks next, if anything.
    pub(crate) fn ask(&self) -> Result<Option<Ask>, End> {
        let mut buffer = [0; LONGEST];
        let packet = message::receive(self.socket.as_fd(), NAME, &mut buffer)?;
        let Some(packet) = packet else {
            return Ok(None);
        };
        let message = packet.strip_prefix(&[WHOLE]);
        let message = message.ok_or(Error::Device(NAME, "a message in pieces"))?;
        let ask = wire::decode(message);
        Ok(Some(ask.map_err(|error| Error::Message(NAME, error))?))
    }

    /// Puts answers at the end of those that wait.
    pub(crate) fn tell(&mut self, answers: impl IntoIterator<Item = Answer>) {
        self.waiting.extend(answers);
    }

    /// Sends what the device has room for, and waits for what is to happen next.
    pub(crate) fn settle(&mut self, poller: &Poller) -> Result<(), End> {
        while let Some(answer) = self.waiting.pop_front() {
            if let Some(kept) = self.send(answer)? {
                self.waiting.push_front(kept);
                break;
            }
        }
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, !self.is_full());
        flags.set(EpollFlags::EPOLLOUT, !self.waiting.is_empty());
        if flags != self.flags {
            poller.change(&self.socket, Token::Streams, flags)?;
            self.flags = flags;
        }
        Ok(())
    }

    /// Sends one answer; gives it back if there is no room.
    fn send(&self, (tell, socket): Answer) -> Result<Option<Answer>, End> {
        let message = wire::encode(&tell).map_err(|error| Error::Message(NAME, error))?;
        let packet = [&[WHOLE], message.as_slice()].concat();
        match message::send(self.socket.as_fd(), &packet, socket.as_ref())? {
            Sent::Done => Ok(None),
            Sent::Full => Ok(Some((tell, socket))),
            Sent::TooManyDescriptors => match tell {
                Tell::Connected { id } => self.send((exhausted(id), None)),
                // Whoever connected to a published port sees it closed.
                _ => Ok(None),
            },
        }
    }
}

const fn exhausted(id: u32) -> Tell {
    let why = Failure::Exhausted;
    Tell::Failed { id, why }
}
