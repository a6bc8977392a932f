//! Datagrams and echo requests of the guest, and what comes back.
//!
//! A port of the guest has one socket a family, whoever it sends to, so that all see the same port
//! of the host (RFC 4787, REQ-1); only those that the guest has sent to may answer (REQ-8, the
//! stricter kind).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use wire::net::{Datagram, Failure, Kind};

use crate::error::{End, Error};
use crate::outside::{self, Carrier};
use crate::poller::{Poller, Token};
use crate::table::{Flow, Key, Table};
use crate::{Judge, Judgement, echo, errors, link::Link};

/// Datagrams of one socket that are taken before others have their turn.
const AT_ONCE: usize = 32;

/// The longest payload of UDP over IPv4 (RFC 768), and room for an echo reply's head.
const LONGEST: usize = 65507 + 8;

/// A bound UDP socket that leads to a port of the guest.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) socket: UdpSocket,
    pub(crate) is_v6: bool,
    pub(crate) port: u16,
}

/// A socket, and how it is used.
#[derive(Debug)]
struct Socket {
    socket: UdpSocket,
    local: Local,
    /// Flows that need it.
    users: usize,
    is_published: bool,
}

/// What a socket stands for on the guest's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Local {
    carrier: Carrier,
    is_v6: bool,
    port: u16,
}

/// What flows meet on their way.
pub(crate) struct Way<'a> {
    pub(crate) poller: &'a Poller,
    pub(crate) link: &'a Link,
    pub(crate) judge: &'a Judge,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Flows {
    sockets: HashMap<u64, Socket>,
    numbers: HashMap<Local, u64>,
    own: Table,
    /// Apart, so that nobody outside can end the flows that the guest has begun.
    published: Table,
    next: u64,
    buffer: Vec<u8>,
    no_echo: bool,
}

impl Flows {
    pub(crate) fn new(published: Vec<Published>, poller: &Poller) -> Result<Self, Error> {
        let mut flows = Self {
            sockets: HashMap::new(),
            numbers: HashMap::new(),
            own: Table::new(),
            published: Table::new(),
            next: 0,
            buffer: vec![0; LONGEST],
            no_echo: false,
        };
        for published in published {
            let local = Local {
                carrier: Carrier::Udp,
                is_v6: published.is_v6,
                port: published.port,
            };
            flows.add(published.socket, local, true, poller)?;
        }
        Ok(flows)
    }

    /// When the first of them ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.own.deadline(), self.published.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Ends those that were idle for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.published.expire(now).is_some() {}
        while let Some(flow) = self.own.expire(now) {
            self.release(flow.socket);
        }
    }

    /// Sends what the guest sends, which is [`Kind::Udp`] or [`Kind::Echo`].
    pub(crate) fn send(
        &mut self,
        way: &Way<'_>,
        datagram: &Datagram<'_>,
        now: Instant,
    ) -> Result<(), End> {
        let key = key(datagram);
        if let Some(flow) = self.published.pass(key, now) {
            // Whoever came through a published port may be answered.
            flow.guest = datagram.guest;
            let number = flow.socket;
            return self.transmit(way, number, datagram);
        }
        let port = (key.carrier == Carrier::Udp).then_some(key.remote.port());
        match way.judge.judge(key.remote.ip(), port) {
            Judgement::Allowed => {}
            Judgement::Denied => return tell(way, datagram, Kind::Denied),
            Judgement::Unreachable => return tell(way, datagram, Kind::Unreachable),
        }
        let known = self.own.pass(key, now).map(|flow| flow.socket);
        let number = match known {
            Some(number) => number,
            None => match self.begin(way, key, datagram, now)? {
                Some(number) => number,
                None => return tell(way, datagram, Kind::Unreachable),
            },
        };
        self.transmit(way, number, datagram)
    }

    /// Something happened to a socket.
    pub(crate) fn receive(
        &mut self,
        way: &Way<'_>,
        number: u64,
        flags: EpollFlags,
        now: Instant,
    ) -> Result<(), End> {
        if flags.contains(EpollFlags::EPOLLERR) {
            self.hear(way, number)?;
        }
        for _ in 0..AT_ONCE {
            let Some(socket) = self.sockets.get(&number) else {
                return Ok(());
            };
            // What failed shows again as an event.
            let Ok((length, from)) = socket.socket.recv_from(&mut self.buffer) else {
                return Ok(());
            };
            let (local, is_published) = (socket.local, socket.is_published);
            let key = Key {
                carrier: local.carrier,
                port: local.port,
                remote: canonical(from),
            };
            let known = if is_published {
                Some(self.welcome(key, number, now))
            } else {
                self.own.pass(key, now).copied()
            };
            let payload = self.buffer.get(..length).unwrap_or_default();
            if let Some(flow) = known
                && let Some((kind, payload)) = unwrap(local, payload)
            {
                way.link.send(&Datagram {
                    guest: flow.guest,
                    remote: flow.remote,
                    kind,
                    payload,
                })?;
            }
        }
        Ok(())
    }

    /// The flow of somebody who sends to a published port.
    fn welcome(&mut self, key: Key, socket: u64, now: Instant) -> Flow {
        if let Some(flow) = self.published.pass(key, now) {
            return *flow;
        }
        let unspecified: IpAddr = match key.remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let flow = Flow {
            guest: SocketAddr::new(unspecified, key.port),
            remote: key.remote,
            socket,
        };
        self.published.insert(key, flow, now);
        flow
    }

    /// A new flow of the guest's; the number of its socket, if one can be made.
    fn begin(
        &mut self,
        way: &Way<'_>,
        key: Key,
        datagram: &Datagram<'_>,
        now: Instant,
    ) -> Result<Option<u64>, Error> {
        let local = Local {
            carrier: key.carrier,
            is_v6: key.remote.is_ipv6(),
            port: key.port,
        };
        let number = match self.numbers.get(&local).copied() {
            Some(number) => number,
            None => match outside::datagrams(local.carrier, local.is_v6) {
                Ok(socket) => self.add(socket, local, false, way.poller)?,
                Err(errno) => {
                    self.say_once(local.carrier, errno);
                    return Ok(None);
                }
            },
        };
        if let Some(socket) = self.sockets.get_mut(&number) {
            socket.users = socket.users.saturating_add(1);
        }
        let flow = Flow {
            guest: datagram.guest,
            remote: datagram.remote,
            socket: number,
        };
        if let Some(gone) = self.own.insert(key, flow, now) {
            self.release(gone.socket);
        }
        Ok(Some(number))
    }

    fn say_once(&mut self, carrier: Carrier, errno: Errno) {
        if carrier == Carrier::Echo && !self.no_echo {
            self.no_echo = true;
            device::report(&format!(
                "the guest cannot ping: {errno}; on the host, sysctl net.ipv4.ping_group_range \
                 says who may"
            ));
        }
    }

    fn add(
        &mut self,
        socket: UdpSocket,
        local: Local,
        is_published: bool,
        poller: &Poller,
    ) -> Result<u64, Error> {
        let number = self.next;
        self.next = number.wrapping_add(1);
        poller.add(&socket, Token::Flow(number), EpollFlags::EPOLLIN)?;
        if !is_published {
            self.numbers.insert(local, number);
        }
        let socket = Socket {
            socket,
            local,
            users: 0,
            is_published,
        };
        self.sockets.insert(number, socket);
        Ok(number)
    }

    /// A flow of this socket has ended; the last one closes it.
    fn release(&mut self, number: u64) {
        let Some(socket) = self.sockets.get_mut(&number) else {
            return;
        };
        socket.users = socket.users.saturating_sub(1);
        if socket.users == 0 && !socket.is_published {
            let local = socket.local;
            self.sockets.remove(&number);
            self.numbers.remove(&local);
        }
    }

    /// Sends through a socket, and tells the device if that is in vain.
    fn transmit(&self, way: &Way<'_>, number: u64, datagram: &Datagram<'_>) -> Result<(), End> {
        let Some(socket) = self.sockets.get(&number) else {
            return Ok(());
        };
        let Err(first) = socket.send(datagram) else {
            return Ok(());
        };
        // It may be about an earlier datagram.
        let heard = self.hear(way, number)?;
        let error = if heard {
            socket.send(datagram).err()
        } else {
            Some(first)
        };
        match error.and_then(what) {
            Some(kind) => tell(way, datagram, kind),
            None => Ok(()),
        }
    }

    /// Passes on what the kernel heard of a socket's datagrams; whether there was anything.
    fn hear(&self, way: &Way<'_>, number: u64) -> Result<bool, End> {
        let Some(socket) = self.sockets.get(&number) else {
            return Ok(false);
        };
        // An error that comes with no message would be an event for ever.
        let pending = socket.socket.take_error();
        let mut heard = matches!(pending, Ok(Some(_)));
        for _ in 0..AT_ONCE {
            let Some((to, errno)) = errors::next(&socket.socket) else {
                break;
            };
            heard = true;
            let key = Key {
                carrier: socket.local.carrier,
                port: socket.local.port,
                remote: canonical(to),
            };
            let flow = self.own.get(&key).or_else(|| self.published.get(&key));
            if let (Some(flow), Some(kind)) = (flow, what(errno)) {
                way.link.send(&Datagram {
                    guest: flow.guest,
                    remote: flow.remote,
                    kind,
                    payload: &[],
                })?;
            }
        }
        Ok(heard)
    }
}

impl Socket {
    fn send(&self, datagram: &Datagram<'_>) -> Result<(), Errno> {
        let is_v6 = self.local.is_v6;
        let mut remote = canonical(datagram.remote);
        if let (true, IpAddr::V4(v4)) = (is_v6, remote.ip()) {
            // A published port of both families.
            remote.set_ip(v4.to_ipv6_mapped().into());
        }
        let sent = match datagram.kind {
            Kind::Echo { sequence } => {
                let request = echo::request(is_v6, sequence, datagram.payload);
                self.socket.send_to(&request, remote)
            }
            _ => self.socket.send_to(datagram.payload, remote),
        };
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
        sent.map(drop).map_err(errno)
    }
}

/// What came in, and its content.
fn unwrap(local: Local, packet: &[u8]) -> Option<(Kind, &[u8])> {
    match local.carrier {
        Carrier::Udp => Some((Kind::Udp, packet)),
        Carrier::Echo => {
            let (sequence, payload) = echo::reply(local.is_v6, packet)?;
            Some((Kind::Echo { sequence }, payload))
        }
    }
}

/// Of a datagram of the guest's.
fn key(datagram: &Datagram<'_>) -> Key {
    let carrier = match datagram.kind {
        Kind::Echo { .. } => Carrier::Echo,
        _ => Carrier::Udp,
    };
    Key {
        carrier,
        port: datagram.guest.port(),
        remote: canonical(datagram.remote),
    }
}

/// An address as flows know it: of IPv4 if it is a mapped one, without a scope.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What the guest is told about an error; nothing, if it would be wrong.
fn what(errno: Errno) -> Option<Kind> {
    if errno == Errno::EMSGSIZE {
        return None;
    }
    match outside::failure(errno) {
        Failure::Refused => Some(Kind::Refused),
        Failure::Unreachable => Some(Kind::Unreachable),
        Failure::Denied => Some(Kind::Denied),
        Failure::TimedOut | Failure::Exhausted => None,
    }
}

/// Tells the device what became of a datagram.
fn tell(way: &Way<'_>, datagram: &Datagram<'_>, kind: Kind) -> Result<(), End> {
    way.link.send(&Datagram {
        kind,
        payload: &[],
        ..*datagram
    })
}
