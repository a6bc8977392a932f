//! The loop: what the network device, the supervisor, the Internet and the clock want next.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use device::Channel;
use nix::sys::epoll::EpollFlags;
use wire::net::{Ask, DialerRequest, Failure, Kind, MAX_DATAGRAM, Target};

use crate::config::{self, Config};
use crate::connects::{self, Connects};
use crate::dns::Questions;
use crate::egress::{Judge, Judgement};
use crate::error::{End, Error};
use crate::flows::{Flows, Published, Way};
use crate::link::{self, Link};
use crate::listeners::Listeners;
use crate::poller::{Poller, Token};
use crate::streams::Streams;

/// Packets of one socket of the device that are taken before others have their turn.
const AT_ONCE: usize = 64;

/// How long the supervisor may take to finish a message that it has begun.
const PATIENCE: Duration = Duration::from_secs(1);

/// Open sockets that the dialer works with.
#[derive(Debug)]
pub struct Links {
    pub(crate) streams: OwnedFd,
    pub(crate) datagrams: OwnedFd,
    pub(crate) listeners: Vec<(TcpListener, u16)>,
    pub(crate) published: Vec<Published>,
}

/// A dialer at work.
#[derive(Debug)]
pub struct Dialer {
    poller: Poller,
    judge: Judge,
    streams: Streams,
    connects: Connects,
    listeners: Listeners,
    link: Link,
    flows: Flows,
    questions: Questions,
    inbox: Box<[u8; MAX_DATAGRAM]>,
}

impl Dialer {
    /// Is about to work.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel runs out of something.
    pub fn new(config: &Config, links: Links) -> Result<Self, Error> {
        let poller = Poller::new()?;
        Ok(Self {
            judge: config.judge(),
            streams: Streams::new(links.streams, &poller)?,
            connects: Connects::new(),
            listeners: Listeners::new(links.listeners, &poller)?,
            link: Link::new(links.datagrams, &poller)?,
            flows: Flows::new(links.published, &poller)?,
            questions: Questions::new(config.nameservers().to_vec()),
            inbox: Box::new([0; MAX_DATAGRAM]),
            poller,
        })
    }

    /// Works until the network device or the supervisor on `control` leaves.
    ///
    /// # Errors
    /// [`Error::Device`] or [`Error::Message`] if the device sends nonsense, [`Error::Supervisor`]
    /// if the supervisor does, [`Error::System`] if the kernel runs out of something.
    pub fn run(mut self, control: &Channel) -> Result<(), Error> {
        control
            .set_timeout(Some(PATIENCE))
            .map_err(Error::Supervisor)?;
        self.poller
            .add(control, Token::Control, EpollFlags::EPOLLIN)?;
        loop {
            match self.turn(control) {
                Ok(()) => {}
                Err(End::Left) => return Ok(()),
                Err(End::Failed(error)) => return Err(error),
            }
        }
    }

    /// Waits for something to happen, and does what is to be done.
    fn turn(&mut self, control: &Channel) -> Result<(), End> {
        for (token, flags) in self.poller.wait(self.deadline())? {
            let now = Instant::now();
            match token {
                Token::Control => self.obey(control)?,
                Token::Streams => self.serve_streams()?,
                Token::Datagrams => self.serve_datagrams(now)?,
                Token::Listener(number) => {
                    let answers = self.listeners.accept(number, now);
                    self.streams.tell(answers);
                }
                Token::Connect(number) => {
                    let answer = self.connects.progress(&self.poller, number)?;
                    self.streams.tell(answer);
                }
                Token::Flow(number) => {
                    let way = way(&self.poller, &self.link, &self.judge);
                    self.flows.receive(&way, number, flags, now)?;
                }
                Token::Question(number) => {
                    self.questions.progress(&self.poller, &self.link, number)?;
                }
            }
        }
        self.expire(Instant::now())?;
        self.streams.settle(&self.poller)?;
        let is_full = self.streams.is_full();
        self.listeners
            .settle(&self.poller, Instant::now(), is_full)?;
        Ok(())
    }

    /// When something is to be done even if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.connects.deadline(),
            self.listeners.deadline(),
            self.flows.deadline(),
            self.questions.deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn expire(&mut self, now: Instant) -> Result<(), End> {
        let answers = self.connects.expire(&self.poller, now)?;
        self.streams.tell(answers);
        self.flows.expire(now);
        self.questions.expire(&self.poller, &self.link, now)
    }

    /// Does what the supervisor wants.
    fn obey(&mut self, control: &Channel) -> Result<(), End> {
        let message = control.receive().map_err(Error::Supervisor)?;
        let (DialerRequest::Nameservers(servers), _) = message.ok_or(End::Left)?;
        self.questions.set_servers(config::usable(servers));
        Ok(())
    }

    /// Does what the device wants with connections.
    fn serve_streams(&mut self) -> Result<(), End> {
        for _ in 0..AT_ONCE {
            if self.streams.is_full() {
                break;
            }
            match self.streams.ask()? {
                Some(Ask::Connect { id, target }) => self.connect(id, target)?,
                Some(Ask::Cancel { id }) => self.connects.cancel(id),
                None => break,
            }
        }
        Ok(())
    }

    fn connect(&mut self, id: u32, target: Target) -> Result<(), Error> {
        let answer = match target {
            Target::Dns => {
                let servers = self.questions.servers();
                self.connects.begin(&self.poller, id, servers)?
            }
            Target::Address(address) => {
                match self.judge.judge(address.ip(), Some(address.port())) {
                    Judgement::Allowed => {
                        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                        self.connects.begin(&self.poller, id, &[address])?
                    }
                    Judgement::Denied => Some(connects::failed(id, Failure::Denied)),
                    Judgement::Unreachable => Some(connects::failed(id, Failure::Unreachable)),
                }
            }
        };
        self.streams.tell(answer);
        Ok(())
    }

    /// Does what the device wants with datagrams.
    fn serve_datagrams(&mut self, now: Instant) -> Result<(), End> {
        let way = way(&self.poller, &self.link, &self.judge);
        for _ in 0..AT_ONCE {
            let Some(datagram) = self.link.receive(&mut self.inbox)? else {
                break;
            };
            match datagram.kind {
                Kind::Udp | Kind::Echo { .. } => self.flows.send(&way, &datagram, now)?,
                Kind::Dns => self.questions.ask(&self.poller, &self.link, &datagram)?,
                Kind::Refused | Kind::Unreachable | Kind::Denied => {
                    let what = "an answer instead of something to send";
                    return Err(Error::Device(link::NAME, what).into());
                }
            }
        }
        Ok(())
    }
}

const fn way<'a>(poller: &'a Poller, link: &'a Link, judge: &'a Judge) -> Way<'a> {
    Way {
        poller,
        link,
        judge,
    }
}
