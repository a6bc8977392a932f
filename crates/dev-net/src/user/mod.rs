//! The network in user mode: the guest's packets on one side, sockets of the host on the other.

mod addresses;
mod arp;
mod dhcp;
mod dialer;
mod dns;
mod fragments;
mod icmp;
mod ndp;
mod outbox;
mod tcp;
mod transport;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use device::serve::{Buffers, Readiness, Sources};
use wire::net::{Addresses, Datagram, Kind};

use crate::backend::{Backend, Pass};
use crate::checksum::Sum;
use crate::header::{Header, Segments, feature};
use crate::packet::{Content, ICMP, ICMPV6, Ip, Link, Mac, TCP, UDP, parse, pseudo_header};
use crate::receive::{NoBuffers, Receive};

use addresses::Place;
use dialer::Dialer;
use fragments::Fragments;
use icmp::{Reason, Sent};
use outbox::Outbox;
use tcp::Segment;
use transport::Transport;

/// The longest headers that are looked at: Ethernet, IPv6, its extensions, TCP.
const HEAD: usize = 256;

/// Datagrams delivered before others have their turn.
const DATAGRAMS: usize = 64;

/// Tokens: the two sockets of the dialer, then the connections' slots.
const STREAMS: u16 = 0;
const ARRIVALS: u16 = 1;
const FIRST_SLOT: u16 = 2;

/// The network in user mode.
pub(crate) struct User {
    link: Link,
    addresses: Addresses,
    dialer: Dialer,
    transport: Transport,
    fragments: Fragments,
    outbox: Outbox,
    /// A packet, where it must be in one piece.
    scratch: Vec<u8>,
}

impl User {
    /// # Errors
    /// If the dialer's sockets are of no use.
    pub(crate) fn new(
        link: Link,
        addresses: Addresses,
        streams: OwnedFd,
        datagrams: OwnedFd,
    ) -> io::Result<Self> {
        Ok(Self {
            link,
            dialer: Dialer::new(streams, datagrams)?,
            transport: Transport::new(link.mtu),
            fragments: Fragments::default(),
            outbox: Outbox::default(),
            scratch: Vec::new(),
            addresses,
        })
    }

    /// The guest may have another hardware address than it began with, and another device may have
    /// been told so.
    fn note_mac(&mut self, head: &[u8], ip: &Ip) {
        let own = addresses::guest(&self.addresses, ip.source) == Some(ip.source);
        if own && let Some(mac) = head.get(6..).and_then(<[u8]>::first_chunk) {
            self.link.guest = *mac;
        }
    }

    fn take_ip(
        &mut self,
        header: &Header,
        head: &[u8],
        ip: Ip,
        mut packet: Buffers<'_>,
        now: Instant,
    ) {
        if ip.protocol == TCP && ip.fragment.is_none() {
            return self.take_tcp(header, head, &ip, packet, now);
        }
        packet.advance(ip.start);
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.resize(ip.length, 0);
        let complete = packet.peek(&mut bytes) == ip.length;
        let partial = header.checksum.is_some();
        match ip.fragment {
            _ if !complete => {}
            None => self.take_datagrams(&ip, &mut bytes, partial, header.segments),
            Some(fragment) => {
                if let Some(mut whole) = self.fragments.add(&ip, fragment, &bytes, now) {
                    self.take_datagrams(&ip, &mut whole, false, None);
                }
            }
        }
        self.scratch = bytes;
    }

    fn take_tcp(
        &mut self,
        header: &Header,
        head: &[u8],
        ip: &Ip,
        mut packet: Buffers<'_>,
        now: Instant,
    ) {
        if !addresses::is_guest(&self.addresses, ip.source) {
            return;
        }
        packet.advance(ip.start);
        packet.truncate(ip.length);
        let head = head.get(ip.start..).unwrap_or_default();
        let Some((segment, length)) = Segment::parse(head) else {
            return;
        };
        if length > ip.length || (header.checksum.is_none() && !is_intact(ip, packet.clone())) {
            return;
        }
        packet.advance(length);
        let key = tcp::Key {
            guest: SocketAddr::new(ip.source, segment.source),
            remote: SocketAddr::new(ip.destination, segment.destination),
        };
        let place = addresses::place(&self.addresses, ip.destination);
        let (transport, mut parts) = self.split(now);
        transport.accept(&mut parts, key, place, &segment, packet);
    }

    /// Takes a packet of anything but TCP. With a `partial` checksum it never was on a wire.
    fn take_datagrams(
        &mut self,
        ip: &Ip,
        bytes: &mut [u8],
        partial: bool,
        segments: Option<(Segments, u16)>,
    ) {
        match ip.protocol {
            UDP => self.take_udp(ip, bytes, partial, segments),
            ICMP | ICMPV6 if icmp::protocol(ip.source) == ip.protocol => {
                let mut sum = match ip.protocol {
                    ICMP => Sum::default(),
                    _ => pseudo_header(ip.source, ip.destination, ICMPV6, bytes.len()),
                };
                sum.add(bytes);
                if sum.finish() == 0 {
                    self.take_icmp(ip, bytes);
                }
            }
            _ => {}
        }
    }

    fn take_udp(
        &mut self,
        ip: &Ip,
        bytes: &[u8],
        partial: bool,
        segments: Option<(Segments, u16)>,
    ) {
        let Some((header, rest)) = bytes.split_first_chunk::<8>() else {
            return;
        };
        let [s0, s1, d0, d1, l0, l1, c0, c1] = *header;
        let (source, destination) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let Some(payload) = length.checked_sub(8).and_then(|length| rest.get(..length)) else {
            return;
        };
        let unchecked = [c0, c1] == [0, 0] && ip.source.is_ipv4();
        if !partial && !unchecked {
            let mut sum = pseudo_header(ip.source, ip.destination, UDP, length);
            sum.add(bytes.get(..length).unwrap_or_default());
            if sum.finish() != 0 {
                return;
            }
        }
        if destination == dhcp::SERVER_PORT && source == dhcp::CLIENT_PORT {
            return self.lease(payload);
        }
        let guest = SocketAddr::new(ip.source, source);
        let remote = SocketAddr::new(ip.destination, destination);
        let size = match segments {
            Some((Segments::Udp, size)) => usize::from(size),
            _ => payload.len().max(1),
        };
        if payload.is_empty() {
            return self.send_udp(guest, remote, payload);
        }
        for datagram in payload.chunks(size) {
            self.send_udp(guest, remote, datagram);
        }
    }

    fn lease(&mut self, payload: &[u8]) {
        let Some(subnet) = self.addresses.v4 else {
            return;
        };
        let name = &self.addresses.hostname;
        if let Some(reply) = dhcp::answer(payload, subnet, self.link.mtu, name) {
            let from = SocketAddr::new(subnet.gateway.into(), dhcp::SERVER_PORT);
            let to = SocketAddr::new(Ipv4Addr::BROADCAST.into(), dhcp::CLIENT_PORT);
            self.outbox.udp(&self.link, from, to, &reply);
        }
    }

    fn send_udp(&mut self, guest: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        if !addresses::is_guest(&self.addresses, guest.ip()) {
            return;
        }
        let sent = Sent {
            protocol: UDP,
            guest,
            remote,
            seq: 0,
        };
        let (kind, target) = match addresses::place(&self.addresses, remote.ip()) {
            Place::Gateway if remote.port() == dns::PORT => {
                if let Some(answer) = dns::answer(&self.addresses, payload) {
                    return self.outbox.udp(&self.link, remote, guest, &answer);
                }
                (Kind::Dns, remote.ip())
            }
            Place::Gateway => return self.refuse(&sent, Reason::Port),
            Place::Nobody => return self.refuse(&sent, Reason::Address),
            Place::Several => return,
            Place::Host(address) | Place::Remote(address) => (Kind::Udp, address),
        };
        self.dialer.send(&Datagram {
            guest,
            remote: SocketAddr::new(target, remote.port()),
            kind,
            payload,
        });
    }

    fn refuse(&mut self, sent: &Sent, reason: Reason) {
        self.outbox
            .refuse(&self.link, &self.addresses, sent, reason);
    }

    /// TCP, and what it works with.
    fn split(&mut self, now: Instant) -> (&mut Transport, Parts<'_>) {
        let parts = Parts {
            dialer: &mut self.dialer,
            outbox: &mut self.outbox,
            link: &self.link,
            addresses: &self.addresses,
            now,
        };
        (&mut self.transport, parts)
    }

    fn take_icmp(&mut self, ip: &Ip, message: &[u8]) {
        let Some(echo) = icmp::echo_request(ip.protocol, message) else {
            return self.take_neighbour(ip, message);
        };
        if !addresses::is_guest(&self.addresses, ip.source) {
            return;
        }
        let guest = SocketAddr::new(ip.source, echo.identifier);
        match addresses::place(&self.addresses, ip.destination) {
            Place::Gateway | Place::Host(_) => {
                let reply = icmp::echo_reply(ip.protocol, &echo);
                self.outbox
                    .icmp(&self.link, ip.destination, ip.source, reply);
            }
            Place::Remote(address) => self.dialer.send(&Datagram {
                guest,
                remote: SocketAddr::new(address, 0),
                kind: Kind::Echo {
                    sequence: echo.sequence,
                },
                payload: echo.payload,
            }),
            Place::Nobody => {
                let sent = Sent {
                    protocol: ip.protocol,
                    guest,
                    remote: SocketAddr::new(ip.destination, 0),
                    seq: 0,
                };
                self.refuse(&sent, Reason::Address);
            }
            Place::Several => {}
        }
    }

    fn take_neighbour(&mut self, ip: &Ip, message: &[u8]) {
        if ip.protocol != ICMPV6 {
            return;
        }
        let ours = |address: Ipv6Addr| {
            let place = addresses::place(&self.addresses, address.into());
            matches!(place, Place::Gateway | Place::Host(_))
        };
        if let Some((from, reply)) = ndp::answer(message, self.addresses.v6, self.link.mtu, ours) {
            // One that has no address yet is told together with all others (RFC 4861, 7.2.4).
            let to = match ip.source {
                address if address.is_unspecified() => {
                    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into()
                }
                address => address,
            };
            self.outbox.icmp(&self.link, from.into(), to, reply);
        }
    }

    /// Delivers datagrams from the dialer.
    fn deliver(&mut self, receive: &mut Receive<'_, '_>) -> Result<Pass, NoBuffers> {
        // What is of no connection comes by the first pair.
        receive.select(0);
        for _ in 0..DATAGRAMS {
            // What is received must be sent: without room it stays where it is.
            self.outbox.flush(receive)?;
            let Some(datagram) = self.dialer.receive() else {
                let pass = if self.dialer.arrived {
                    Pass::Unfinished
                } else {
                    Pass::Finished
                };
                return Ok(pass);
            };
            arrive(&self.link, &self.addresses, &mut self.outbox, &datagram);
        }
        self.outbox.flush(receive)?;
        Ok(Pass::Unfinished)
    }
}

/// What TCP works with, for the length of one call.
struct Parts<'a> {
    dialer: &'a mut Dialer,
    outbox: &'a mut Outbox,
    link: &'a Link,
    addresses: &'a Addresses,
    now: Instant,
}

impl Parts<'_> {
    fn refuse(&mut self, sent: &Sent, reason: Reason) {
        self.outbox.refuse(self.link, self.addresses, sent, reason);
    }
}

/// Puts a datagram of the dialer's into the outbox.
fn arrive(link: &Link, addresses: &Addresses, outbox: &mut Outbox, datagram: &Datagram<'_>) {
    let Datagram {
        guest,
        remote,
        kind,
        payload,
    } = *datagram;
    // Of whom the guest asked for a name it hears under the address that it knows.
    let from = match kind {
        Kind::Dns => Some(remote.ip()),
        _ => addresses::seen(addresses, remote.ip()),
    };
    let Some(from) = from else { return };
    // Where a published port leads, only we know.
    let guest = match addresses::guest(addresses, from) {
        Some(address) if guest.ip().is_unspecified() => SocketAddr::new(address, guest.port()),
        _ => guest,
    };
    if !addresses::is_guest(addresses, guest.ip()) || from.is_ipv4() != guest.is_ipv4() {
        return;
    }
    let from = SocketAddr::new(from, remote.port());
    let protocol = match remote.port() {
        0 => icmp::protocol(from.ip()),
        _ => UDP,
    };
    let sent = Sent {
        protocol,
        guest,
        remote: from,
        seq: 0,
    };
    match kind {
        Kind::Udp | Kind::Dns => outbox.udp(link, from, guest, payload),
        Kind::Echo { sequence } => {
            let echo = icmp::Echo {
                identifier: guest.port(),
                sequence,
                payload,
            };
            let reply = icmp::echo_reply(icmp::protocol(from.ip()), &echo);
            outbox.icmp(link, from.ip(), guest.ip(), reply);
        }
        Kind::Refused => outbox.refuse(link, addresses, &sent, Reason::Port),
        Kind::Unreachable => outbox.refuse(link, addresses, &sent, Reason::Address),
        Kind::Denied => outbox.refuse(link, addresses, &sent, Reason::Prohibited),
    }
}

/// Whether the transport's checksum is right. What the guest changes meanwhile is its own loss.
fn is_intact(ip: &Ip, mut packet: Buffers<'_>) -> bool {
    let mut sum = pseudo_header(ip.source, ip.destination, ip.protocol, ip.length);
    let mut piece = [0; 4096];
    while !packet.is_empty() {
        let count = packet.peek(&mut piece);
        sum.add(piece.get(..count).unwrap_or_default());
        packet.advance(count);
    }
    sum.finish() == 0
}

impl Backend for User {
    fn features(&self) -> u64 {
        feature::CSUM
            | feature::GUEST_CSUM
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | feature::HOST_USO
    }

    fn negotiated(&mut self, features: u64) {
        self.transport.negotiated(features);
    }

    fn attach(&mut self, sources: Sources, first: u16) -> io::Result<()> {
        sources.add(self.dialer.streams(), first.saturating_add(STREAMS))?;
        sources.add(self.dialer.datagrams(), first.saturating_add(ARRIVALS))?;
        self.transport
            .attach(sources, first.saturating_add(FIRST_SLOT));
        Ok(())
    }

    fn reset(&mut self) {
        self.transport.reset();
        self.fragments = Fragments::default();
        self.outbox = Outbox::default();
    }

    fn set_mac(&mut self, mac: Mac) {
        self.link.guest = mac;
    }

    fn transmit(&mut self, mut packet: Buffers<'_>, pair: u16, now: Instant) {
        self.transport.pair = pair;
        let mut header = [0; Header::SIZE];
        if packet.peek(&mut header) < Header::SIZE {
            return;
        }
        let header = Header::parse(&header);
        packet.advance(Header::SIZE);
        let mut head = [0; HEAD];
        let count = packet.peek(&mut head);
        let head = head.get(..count).unwrap_or_default();
        match parse(head, packet.len()) {
            None => {}
            Some(Content::Arp) => {
                let ours = |address: Ipv4Addr| {
                    let place = addresses::place(&self.addresses, address.into());
                    matches!(place, Place::Gateway | Place::Host(_))
                };
                if let Some(reply) = arp::answer(&self.link, head, ours) {
                    self.outbox.raw(reply);
                }
            }
            Some(Content::Ip(ip)) => {
                self.note_mac(head, &ip);
                self.take_ip(&header, head, ip, packet, now);
            }
        }
    }

    fn ready(&mut self, token: u16, readiness: Readiness, now: Instant) {
        match token {
            STREAMS => self.dialer.told |= readiness.readable,
            ARRIVALS => self.dialer.arrived |= readiness.readable,
            token => {
                let slot = token.saturating_sub(FIRST_SLOT);
                let (transport, mut parts) = self.split(now);
                transport.ready(&mut parts, slot, readiness);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.transport.deadline()
    }

    fn receive(&mut self, receive: &mut Receive<'_, '_>, now: Instant) -> Pass {
        let (transport, mut parts) = self.split(now);
        transport.hear(&mut parts);
        transport.on_time(&mut parts);
        let delivered = self.deliver(receive).and_then(|datagrams| {
            let (transport, mut parts) = self.split(now);
            let streams = transport.speak(&mut parts, receive)?;
            receive.select(0);
            self.outbox.flush(receive)?;
            let both = datagrams == Pass::Finished && streams == Pass::Finished;
            Ok(if both {
                Pass::Finished
            } else {
                Pass::Unfinished
            })
        });
        match delivered {
            // The guest kicks when it gives buffers; what the dialer tells cannot wait for that.
            Err(NoBuffers) | Ok(Pass::Finished) if self.dialer.told => Pass::Unfinished,
            Err(NoBuffers) => Pass::Finished,
            Ok(pass) => pass,
        }
    }
}

/// The length of the headers before a UDP datagram's content.
const fn headers(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    }
}
