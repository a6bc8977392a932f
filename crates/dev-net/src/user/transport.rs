//! The TCP connections together: who gets a segment, who speaks, and what becomes of them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::Wrapping;
use std::os::fd::AsFd;
use std::time::Instant;

use device::serve::{Buffers, Readiness, Sources};
use wire::net::{Ask, Failure, Target, Tell};

use crate::backend::Pass;
use crate::header::{Segments, feature};
use crate::packet::{Link, TCP};
use crate::receive::{NoBuffers, Outgoing, Receive};

use super::addresses::{self, Place};
use super::icmp::{Reason, Sent};
use super::outbox::tcp_head;
use super::tcp::{Connection, Fate, Key, Limits, Segment, Seq, Table};
use super::{Parts, dns, headers};

/// Turns of connections to speak before other events have theirs.
const TURNS: usize = 32;

/// Messages of the dialer taken before other events have their turn.
const MESSAGES: usize = 64;

/// The most payload in a packet for the guest: with the headers of IPv6 and TCP it is 65535 bytes.
const LARGE: usize = 65535 - 60;

/// TCP.
pub(crate) struct Transport {
    table: Table,
    /// Requests to the dialer that it has not answered: whose slot, and which of those that had it.
    asked: HashMap<u32, (u16, u32)>,
    next_id: u32,
    numbers: Numbers,
    sources: Option<(Sources, u16)>,
    mtu: u16,
    features: u64,
    /// The pair of queues that the guest's packet came by.
    pub(super) pair: u16,
}

/// Initial sequence numbers that nobody can guess (RFC 9293, section 3.4.1).
struct Numbers {
    secret: RandomState,
    since: Instant,
}

impl Numbers {
    fn next(&self, key: &Key, now: Instant) -> Seq {
        // One every four microseconds, so that a connection's successor starts behind it.
        let ticks = now.saturating_duration_since(self.since).as_micros() / 4;
        let hash = self.secret.hash_one(key);
        let [a, b, c, d, ..] = hash.to_le_bytes();
        let [e, f, g, h, ..] = ticks.to_le_bytes();
        Wrapping(u32::from_le_bytes([a, b, c, d])) + Wrapping(u32::from_le_bytes([e, f, g, h]))
    }
}

impl Transport {
    pub(crate) fn new(mtu: u16) -> Self {
        Self {
            table: Table::default(),
            asked: HashMap::new(),
            next_id: 0,
            numbers: Numbers {
                secret: RandomState::new(),
                since: Instant::now(),
            },
            sources: None,
            mtu,
            features: 0,
            pair: 0,
        }
    }

    pub(crate) fn attach(&mut self, sources: Sources, first: u16) {
        self.sources = Some((sources, first));
    }

    pub(crate) fn negotiated(&mut self, features: u64) {
        self.features = features;
    }

    pub(crate) fn reset(&mut self) {
        for slot in self.table.slots() {
            self.remove(slot, true);
        }
        self.asked.clear();
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.table.next_timer()
    }

    /// A segment of the guest's for `place`.
    pub(crate) fn accept(
        &mut self,
        parts: &mut Parts<'_>,
        key: Key,
        place: Place,
        segment: &Segment,
        payload: Buffers<'_>,
    ) {
        let Some(slot) = self.table.find(&key) else {
            let flags = segment.flags;
            let opens = flags.syn && !flags.ack && !flags.rst && !flags.fin;
            let length = payload.len();
            match place {
                Place::Several => {}
                Place::Nobody if opens => {
                    let seq = segment.seq;
                    parts.refuse(&sent(&key, seq), Reason::Address);
                }
                _ if opens && self.dial(parts, key, place, segment) => {}
                _ => {
                    if let Some(refusal) = segment.refusal(length) {
                        parts.outbox.tcp(parts.link, &key, &refusal);
                    }
                }
            }
            return;
        };
        let Some(connection) = self.table.get_mut(slot) else {
            return;
        };
        connection.pair = self.pair;
        let fate = connection.accept(segment, payload, parts.now);
        self.settle(parts, slot, fate);
    }

    /// Has the host's side of a new connection made. False if there is nobody to connect to; if
    /// there is no room the guest, which hears nothing, tries again.
    fn dial(&mut self, parts: &mut Parts<'_>, key: Key, place: Place, syn: &Segment) -> bool {
        let port = key.remote.port();
        let target = match place {
            Place::Gateway if port == dns::PORT => Target::Dns,
            Place::Host(address) | Place::Remote(address) => {
                Target::Address(SocketAddr::new(address, port))
            }
            Place::Gateway | Place::Nobody | Place::Several => return false,
        };
        let Some(limit) = self.make_room(parts).filter(|_| self.table.may_dial()) else {
            return true;
        };
        let isn = self.numbers.next(&key, parts.now);
        let mut connection = Connection::dialing(key, syn, isn, limit, parts.now);
        connection.pair = self.pair;
        let Some(slot) = self.table.insert(connection) else {
            return true;
        };
        let generation = self.table.get_mut(slot).map_or(0, |new| new.generation);
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        if parts.dialer.ask(Ask::Connect { id, target }) {
            self.asked.insert(id, (slot, generation));
        } else {
            self.remove(slot, false);
        }
        true
    }

    /// What another connection may keep, if there is room for it or can be had.
    fn make_room(&mut self, parts: &mut Parts<'_>) -> Option<usize> {
        if let Some(slot) = self.table.victim(parts.now) {
            self.settle(parts, slot, Fate::Lost);
        }
        self.table.limit()
    }

    /// Takes what the dialer tells.
    pub(crate) fn hear(&mut self, parts: &mut Parts<'_>) {
        for _ in 0..MESSAGES {
            match parts.dialer.listen() {
                None => return,
                Some((Tell::Connected { id }, Some(stream))) => self.connected(id, stream),
                Some((Tell::Failed { id, why }, _)) => self.failed(parts, id, why),
                Some((Tell::Accepted { port, peer }, Some(stream))) => {
                    self.call(parts, port, peer, stream);
                }
                Some((_, None)) => device::report("the dialer sent a message without its socket"),
            }
        }
    }

    /// The connection that the request was for, if there still is one.
    fn answered(&mut self, id: u32) -> Option<u16> {
        let (slot, generation) = self.asked.remove(&id)?;
        let connection = self.table.get_mut(slot)?;
        let waits = connection.generation == generation && connection.is_dialing();
        waits.then_some(slot)
    }

    fn connected(&mut self, id: u32, stream: TcpStream) {
        if let Some(slot) = self.answered(id) {
            self.table.dialed();
            if let Some(connection) = self.table.get_mut(slot) {
                connection.connected(stream);
            }
            self.watch(slot);
        }
    }

    fn failed(&mut self, parts: &mut Parts<'_>, id: u32, why: Failure) {
        let Some(slot) = self.answered(id) else {
            return;
        };
        match why {
            Failure::Refused | Failure::Denied => self.settle(parts, slot, Fate::Lost),
            Failure::Unreachable => {
                if let Some(connection) = self.remove(slot, false) {
                    let seq = connection.guest_isn();
                    parts.refuse(&sent(&connection.key, seq), Reason::Address);
                }
            }
            // The guest goes on trying for as long as it wants to.
            Failure::TimedOut | Failure::Exhausted => {
                self.remove(slot, false);
            }
        }
    }

    /// Somebody connected to a published port.
    fn call(&mut self, parts: &mut Parts<'_>, port: u16, peer: SocketAddr, stream: TcpStream) {
        let remote = addresses::seen(parts.addresses, peer.ip());
        let Some(remote) = remote.map(|address| SocketAddr::new(address, peer.port())) else {
            return;
        };
        let guest = addresses::guest(parts.addresses, remote.ip());
        let Some(guest) = guest.map(|address| SocketAddr::new(address, port)) else {
            return;
        };
        let key = Key { guest, remote };
        // A key in use is of a connection that its peer has forgotten, or soon will.
        if let Some(slot) = self.table.find(&key) {
            self.settle(parts, slot, Fate::Lost);
        }
        if let Some(limit) = self.make_room(parts) {
            let isn = self.numbers.next(&key, parts.now);
            let connection = Connection::calling(key, stream, isn, limit, parts.now);
            if let Some(slot) = self.table.insert(connection) {
                self.watch(slot);
            }
        }
    }

    /// Lets the loop tell of a connection's stream; without that it is of no use.
    fn watch(&mut self, slot: u16) {
        let watched = match (&self.sources, self.table.get_mut(slot)) {
            (Some((sources, first)), Some(connection)) => {
                let token = slot.saturating_add(*first);
                let stream = connection.stream();
                stream.is_some_and(|stream| sources.add(stream.as_fd(), token).is_ok())
            }
            _ => false,
        };
        if watched {
            self.table.enlist(slot);
        } else {
            self.remove(slot, true);
        }
    }

    fn remove(&mut self, slot: u16, reset: bool) -> Option<Connection> {
        let connection = self.table.remove(slot)?;
        if let (Some((sources, _)), Some(stream)) = (&self.sources, connection.stream()) {
            sources.remove(stream.as_fd(), 0);
        }
        if reset {
            connection.reset_stream();
        }
        Some(connection)
    }

    /// The loop's word on a connection's stream. It may be older than the connection.
    pub(crate) fn ready(&mut self, parts: &mut Parts<'_>, slot: u16, readiness: Readiness) {
        if let Some(connection) = self.table.get_mut(slot) {
            let fate = connection.note_readiness(readiness, parts.now);
            self.settle(parts, slot, fate);
        }
    }

    /// Does what a connection's fate demands.
    fn settle(&mut self, parts: &mut Parts<'_>, slot: u16, fate: Fate) {
        match fate {
            Fate::On => {
                self.table.grow(slot, parts.now);
                self.table.enlist(slot);
            }
            Fate::Over => {
                self.remove(slot, false);
            }
            Fate::Dropped => self.drop(parts, slot),
            Fate::Lost => {
                if let Some(connection) = self.remove(slot, true) {
                    parts
                        .outbox
                        .tcp(parts.link, &connection.key, &connection.reset());
                }
            }
        }
    }

    /// The guest reset a connection.
    fn drop(&mut self, parts: &mut Parts<'_>, slot: u16) {
        let Some(connection) = self.remove(slot, true) else {
            return;
        };
        if connection.is_dialing() {
            let mine = |asked: &(&u32, &(u16, u32))| *asked.1 == (slot, connection.generation);
            let id = self.asked.iter().find(mine).map(|(id, _)| *id);
            if let Some(id) = id {
                self.asked.remove(&id);
                // If it is not heard, the answer finds nobody.
                parts.dialer.ask(Ask::Cancel { id });
            }
        }
    }

    /// Does what time demands.
    pub(crate) fn on_time(&mut self, parts: &mut Parts<'_>) {
        while let Some(slot) = self.table.late_ack(parts.now) {
            if let Some(connection) = self.table.get_mut(slot) {
                connection.ack_alone();
            }
            self.table.enlist(slot);
        }
        while let Some(slot) = self.table.overdue(parts.now) {
            if let Some(connection) = self.table.get_mut(slot) {
                let fate = connection.on_time(parts.now);
                self.settle(parts, slot, fate);
            }
        }
    }

    /// Lets connections speak in turn.
    pub(crate) fn speak(
        &mut self,
        parts: &mut Parts<'_>,
        receive: &mut Receive<'_, '_>,
    ) -> Result<Pass, NoBuffers> {
        for _ in 0..TURNS {
            let Some(slot) = self.table.speaker() else {
                return Ok(Pass::Finished);
            };
            let Some(connection) = self.table.get_mut(slot) else {
                continue;
            };
            receive.select(connection.pair);
            let limits = limits(self.mtu, self.features, connection.key.remote.ip());
            let said = connection.say(limits, parts.now, |key, segment, payload, mss| {
                send(receive, parts.link, key, &segment, payload, mss)
            });
            if said.is_err() {
                // Its timers, if any; it stays first in line.
                self.table.enlist(slot);
            }
            let fate = said?;
            self.table.spoke(slot);
            self.settle(parts, slot, fate);
        }
        Ok(Pass::Unfinished)
    }
}

/// A SYN of the guest's, for an error to repeat.
fn sent(key: &Key, seq: Seq) -> Sent {
    Sent {
        protocol: TCP,
        guest: key.guest,
        remote: key.remote,
        seq: seq.0,
    }
}

fn limits(mtu: u16, features: u64, address: IpAddr) -> Limits {
    let headers = u16::try_from(headers(address))
        .unwrap_or(40)
        .saturating_add(20);
    let mss = mtu.saturating_sub(headers);
    let needed = match address {
        IpAddr::V4(_) => feature::GUEST_TSO4,
        IpAddr::V6(_) => feature::GUEST_TSO6,
    };
    let large = if features & needed != 0 { LARGE } else { 0 };
    Limits { mss, large }
}

fn send(
    receive: &mut Receive<'_, '_>,
    link: &Link,
    key: &Key,
    segment: &Segment,
    payload: [&[u8]; 2],
    mss: u16,
) -> Result<(), NoBuffers> {
    let length = payload
        .iter()
        .fold(0, |sum: usize, part| sum.saturating_add(part.len()));
    let Some((head, checksum)) = tcp_head(link, key, segment, length) else {
        return Ok(());
    };
    let kind = match key.remote {
        SocketAddr::V4(_) => Segments::Tcp4,
        SocketAddr::V6(_) => Segments::Tcp6,
    };
    receive.send(Outgoing {
        head,
        payload,
        checksum: Some(checksum),
        segments: (length > mss.into()).then_some((kind, mss)),
    })
}
