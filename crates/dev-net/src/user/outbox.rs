//! Small packets for the guest that no connection remembers: answers, errors, datagrams.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use wire::net::Addresses;

use crate::checksum::Sum;
use crate::packet::{Fragment, Head, ICMPV6, Link, TCP, UDP, pseudo_header, put};
use crate::receive::{Checksum, NoBuffers, Outgoing, Receive};

use super::icmp::{self, Reason, Sent};
use super::tcp::{CHECKSUM_OFFSET, Key, Segment};
use super::{addresses, headers};

/// Packets that may wait for the guest's buffers; further ones are lost.
const MAX_PACKETS: usize = 256;

/// Where a UDP header has its checksum.
const UDP_CHECKSUM_OFFSET: u16 = 6;

struct Packet {
    head: Head,
    payload: Vec<u8>,
    checksum: Option<Checksum>,
}

/// Packets that wait.
#[derive(Default)]
pub(crate) struct Outbox {
    packets: VecDeque<Packet>,
    fragments: u32,
}

impl Outbox {
    fn add(&mut self, head: Head, payload: Vec<u8>, checksum: Option<Checksum>) {
        if self.packets.len() < MAX_PACKETS {
            self.packets.push_back(Packet {
                head,
                payload,
                checksum,
            });
        }
    }

    /// Sends what can be sent.
    pub(crate) fn flush(&mut self, receive: &mut Receive<'_, '_>) -> Result<(), NoBuffers> {
        while let Some(packet) = self.packets.front() {
            receive.send(Outgoing {
                head: packet.head.clone(),
                payload: [&packet.payload, &[]],
                checksum: packet.checksum,
                segments: None,
            })?;
            self.packets.pop_front();
        }
        Ok(())
    }

    /// A packet that is all head.
    pub(crate) fn raw(&mut self, head: Head) {
        self.add(head, Vec::new(), None);
    }

    /// A segment of no connection's, without payload.
    pub(crate) fn tcp(&mut self, link: &Link, key: &Key, segment: &Segment) {
        if let Some((head, checksum)) = tcp_head(link, key, segment, 0) {
            self.add(head, Vec::new(), Some(checksum));
        }
    }

    /// A datagram, in fragments if the link takes no more.
    pub(crate) fn udp(&mut self, link: &Link, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let Some(length) = payload.len().checked_add(8) else {
            return;
        };
        let Ok(field) = u16::try_from(length) else {
            return;
        };
        let mut sum = pseudo_header(from.ip(), to.ip(), UDP, length);
        let [s0, s1] = from.port().to_be_bytes();
        let [d0, d1] = to.port().to_be_bytes();
        let [l0, l1] = field.to_be_bytes();
        let whole = length.saturating_add(headers(from.ip())) <= link.mtu.into();
        if !whole {
            sum.add(&[s0, s1, d0, d1, l0, l1]);
            sum.add(payload);
            sum = complete(sum);
        }
        let [c0, c1] = sum.partial().to_be_bytes();
        let header = [s0, s1, d0, d1, l0, l1, c0, c1];
        if !whole {
            let datagram = [&header, payload].concat();
            return self.in_fragments(link, from.ip(), to.ip(), UDP, &datagram);
        }
        let Some(mut head) = link.ip(from.ip(), to.ip(), UDP, length, None) else {
            return;
        };
        let start = u16::try_from(head.len()).unwrap_or(0);
        put(&mut head, &header);
        let checksum = Checksum {
            start,
            offset: UDP_CHECKSUM_OFFSET,
        };
        self.add(head, payload.to_vec(), Some(checksum));
    }

    /// A message, whose checksum is filled in here.
    pub(crate) fn icmp(&mut self, link: &Link, from: IpAddr, to: IpAddr, mut message: Vec<u8>) {
        let protocol = icmp::protocol(from);
        let mut sum = match protocol {
            ICMPV6 => pseudo_header(from, to, ICMPV6, message.len()),
            _ => Sum::default(),
        };
        sum.add(&message);
        if let Some(field) = message.get_mut(2..).and_then(<[u8]>::first_chunk_mut) {
            *field = sum.finish().to_be_bytes();
        }
        if message.len().saturating_add(headers(from)) > link.mtu.into() {
            return self.in_fragments(link, from, to, protocol, &message);
        }
        if let Some(head) = link.ip(from, to, protocol, message.len(), None) {
            self.add(head, message, None);
        }
    }

    /// What `sent` met, as told by the gateway.
    pub(crate) fn refuse(
        &mut self,
        link: &Link,
        addresses: &Addresses,
        sent: &Sent,
        reason: Reason,
    ) {
        // A port is refused by who has it, all else by the router.
        let from = match reason {
            Reason::Port => Some(sent.remote.ip()),
            _ => addresses::gateway(addresses, sent.remote.ip()),
        };
        if let Some(from) = from
            && let Some(error) = icmp::unreachable(sent, reason)
        {
            self.icmp(link, from, sent.guest.ip(), error);
        }
    }

    fn in_fragments(&mut self, link: &Link, from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) {
        // With the fragment header of IPv6.
        let room = usize::from(link.mtu).saturating_sub(headers(from).saturating_add(8));
        let size = room & !7;
        self.fragments = self.fragments.wrapping_add(1);
        let mut offset = 0_usize;
        for piece in bytes.chunks(size.max(8)) {
            let end = offset.saturating_add(piece.len());
            let fragment = Fragment {
                id: self.fragments,
                offset,
                more: end < bytes.len(),
            };
            offset = end;
            if let Some(head) = link.ip(from, to, protocol, piece.len(), Some(fragment)) {
                self.add(head, piece.to_vec(), None);
            }
        }
    }
}

/// A sum whose partial value is the finished one's.
fn complete(sum: Sum) -> Sum {
    let mut complete = Sum::default();
    complete.add(&sum.finish_transport().to_be_bytes());
    complete
}

/// All headers of a segment with `payload` bytes, and the checksum that is left to do.
pub(crate) fn tcp_head(
    link: &Link,
    key: &Key,
    segment: &Segment,
    payload: usize,
) -> Option<(Head, Checksum)> {
    let header = segment.encode();
    let length = header.len().checked_add(payload)?;
    let (from, to) = (key.remote.ip(), key.guest.ip());
    let mut head = link.ip(from, to, TCP, length, None)?;
    let start = head.len();
    put(&mut head, &header);
    let sum = pseudo_header(from, to, TCP, length).partial();
    let at = start.saturating_add(CHECKSUM_OFFSET.into());
    let field = head.get_mut(at..).and_then(<[u8]>::first_chunk_mut)?;
    *field = sum.to_be_bytes();
    let checksum = Checksum {
        start: u16::try_from(start).ok()?,
        offset: CHECKSUM_OFFSET,
    };
    Some((head, checksum))
}
