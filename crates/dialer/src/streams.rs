//! The socket over which the network device asks for connections and gets them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use handoff::Channel;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::EpollFlags;
use wire::net::{Ask, Failure, Tell};

use crate::error::{End, Error, system};
use crate::poller::{Poller, Token};

/// The resource's name.
pub(crate) const NAME: &str = "streams";

/// Answers that may wait for the device; with more, nothing new is begun.
const MAX_WAITING: usize = 256;

/// What the device is told, and the socket that goes with it.
pub(crate) type Answer = (Tell, Option<OwnedFd>);

/// The device's end of all connections.
#[derive(Debug)]
pub(crate) struct Streams {
    channel: Channel,
    waiting: VecDeque<Answer>,
    flags: EpollFlags,
}

impl Streams {
    pub(crate) fn new(socket: OwnedFd, poller: &Poller) -> Result<Self, Error> {
        let flags = EpollFlags::EPOLLIN;
        poller.add(&socket, Token::Streams, flags)?;
        fcntl(
            &socket,
            FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK),
        )
        .map_err(system("set up the socket of the device"))?;
        Ok(Self {
            channel: socket.into(),
            waiting: VecDeque::new(),
            flags,
        })
    }

    /// Whether the device is to take what there is before more is begun.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// What the device asks next, if anything. It sends no descriptors; those that it does are
    /// closed.
    pub(crate) fn ask(&self) -> Result<Option<Ask>, End> {
        match self.channel.receive() {
            Ok(Some((ask, _))) => Ok(Some(ask)),
            Ok(None) => Err(End::Left),
            Err(handoff::Error::TimedOut) => Ok(None),
            Err(error) => Err(Error::Channel(NAME, error).into()),
        }
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
            poller.change(&self.channel, Token::Streams, flags)?;
            self.flags = flags;
        }
        Ok(())
    }

    /// Sends one answer; gives it back if there is no room.
    fn send(&self, (tell, socket): Answer) -> Result<Option<Answer>, End> {
        let descriptor = socket.as_ref().map(AsFd::as_fd);
        let error = match self.channel.send(&tell, descriptor.as_slice()) {
            Ok(()) => return Ok(None),
            Err(handoff::Error::TimedOut) => return Ok(Some((tell, socket))),
            Err(error) => error,
        };
        match errno(&error) {
            Some(Errno::ENOBUFS | Errno::ENOMEM) => Ok(Some((tell, socket))),
            // The kernel has too many descriptors on their way (unix(7)).
            Some(Errno::ETOOMANYREFS) => match tell {
                Tell::Connected { id } => self.send((exhausted(id), None)),
                // Whoever connected to a published port sees it closed.
                _ => Ok(None),
            },
            Some(Errno::EPIPE | Errno::ECONNRESET) => Err(End::Left),
            _ => Err(Error::Channel(NAME, error).into()),
        }
    }
}

/// What the operating system said, if it was that.
fn errno(error: &handoff::Error) -> Option<Errno> {
    match error {
        handoff::Error::Socket(_, error) => error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

const fn exhausted(id: u32) -> Tell {
    let why = Failure::Exhausted;
    Tell::Failed { id, why }
}
