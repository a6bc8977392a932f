//! Ethernet and IP headers (RFC 894, RFC 791, RFC 8200): what the guest sends, read, and what it
//! gets, written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use crate::bytes::Bytes;
use crate::checksum::Sum;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The address of everything that is not the guest.
pub(crate) const GATEWAY: Mac = *b"\x02crumb";

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// IP protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
const FRAGMENT_HEADER: u8 = 44;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const TYPE_IPV6: u16 = 0x86dd;

/// Extension headers before the transport's; Linux sends none by itself.
const MAX_EXTENSIONS: usize = 8;

/// A frame's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// RFC 826, behind the Ethernet header.
    Arp,
    /// Either version.
    Ip(Ip),
}

/// What an IP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Of what follows all IP headers.
    pub(crate) protocol: u8,
    /// Where that begins in the frame.
    pub(crate) start: usize,
    /// Its bytes.
    pub(crate) length: usize,
    pub(crate) fragment: Option<Fragment>,
}

/// A part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) id: u32,
    /// Where it belongs, in bytes.
    pub(crate) offset: usize,
    /// It is not the last.
    pub(crate) more: bool,
}

/// Reads the headers of a frame of `length` bytes that begins with `head`. `None` is for what is
/// malformed, or not for us, or of no protocol that is served.
pub(crate) fn parse(head: &[u8], length: usize) -> Option<Content> {
    let mut bytes = Bytes(head);
    let destination: Mac = bytes.array()?;
    let _source: Mac = bytes.array()?;
    let [first, ..] = destination;
    if destination != GATEWAY && first & 1 == 0 {
        return None;
    }
    let kind = bytes.u16()?;
    let available = length.checked_sub(ETHERNET)?;
    match kind {
        TYPE_ARP => Some(Content::Arp),
        TYPE_IPV4 => ipv4(bytes, available).map(Content::Ip),
        TYPE_IPV6 => ipv6(bytes, available).map(Content::Ip),
        _ => None,
    }
}

fn ipv4(mut bytes: Bytes<'_>, available: usize) -> Option<Ip> {
    let all = bytes.0;
    let version = bytes.u8()?;
    let _service = bytes.u8()?;
    let total = usize::from(bytes.u16()?);
    let id = bytes.u16()?;
    let place = bytes.u16()?;
    let _life = bytes.u8()?;
    let protocol = bytes.u8()?;
    let _checksum = bytes.u16()?;
    let source: [u8; 4] = bytes.array()?;
    let destination: [u8; 4] = bytes.array()?;
    let header = usize::from(version & 0xf).saturating_mul(4);
    if version >> 4 != 4 || header < 20 || total > available {
        return None;
    }
    let mut sum = Sum::default();
    sum.add(all.get(..header)?);
    if sum.finish() != 0 {
        return None;
    }
    let fragment = Fragment {
        id: id.into(),
        offset: usize::from(place & 0x1fff).saturating_mul(8),
        more: place & 0x2000 != 0,
    };
    Some(Ip {
        source: Ipv4Addr::from(source).into(),
        destination: Ipv4Addr::from(destination).into(),
        protocol,
        start: ETHERNET.saturating_add(header),
        length: total.checked_sub(header)?,
        fragment: (fragment.offset > 0 || fragment.more).then_some(fragment),
    })
}

fn ipv6(mut bytes: Bytes<'_>, available: usize) -> Option<Ip> {
    let version = bytes.u32()?;
    let mut length = usize::from(bytes.u16()?);
    let mut protocol = bytes.u8()?;
    let _hops = bytes.u8()?;
    let source: [u8; 16] = bytes.array()?;
    let destination: [u8; 16] = bytes.array()?;
    if version >> 28 != 6 || length > available.checked_sub(40)? {
        return None;
    }
    let mut start = ETHERNET.saturating_add(40);
    let mut fragment = None;
    for _ in 0..MAX_EXTENSIONS {
        let Some(extension) = Extension::read(protocol, &mut bytes)? else {
            return Some(Ip {
                source: Ipv6Addr::from(source).into(),
                destination: Ipv6Addr::from(destination).into(),
                protocol,
                start,
                length,
                fragment,
            });
        };
        protocol = extension.next;
        start = start.saturating_add(extension.length);
        length = length.checked_sub(extension.length)?;
        fragment = fragment.or(extension.fragment);
        if fragment.is_some_and(|fragment| fragment.offset > 0) {
            // What follows is data, whatever number it has.
            return Some(Ip {
                source: Ipv6Addr::from(source).into(),
                destination: Ipv6Addr::from(destination).into(),
                protocol,
                start,
                length,
                fragment,
            });
        }
    }
    None
}

/// An IPv6 extension header.
struct Extension {
    next: u8,
    length: usize,
    fragment: Option<Fragment>,
}

impl Extension {
    /// Reads one if `kind` is that of one. The outer `None` is for what cannot be read or must not
    /// be passed on.
    fn read(kind: u8, bytes: &mut Bytes<'_>) -> Option<Option<Self>> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const AUTHENTICATION: u8 = 51;
        const NOTHING: u8 = 59;
        const DESTINATION: u8 = 60;
        match kind {
            HOP_BY_HOP | ROUTING | DESTINATION => {}
            FRAGMENT_HEADER => return Self::fragment(bytes).map(Some),
            AUTHENTICATION | NOTHING => return None,
            _ => return Some(None),
        }
        let next = bytes.u8()?;
        let length = usize::from(bytes.u8()?).saturating_mul(8).saturating_add(8);
        let content = bytes.take(length.checked_sub(2)?)?;
        if kind == ROUTING && content.get(1) != Some(&0) {
            // Segments are left: it wants to go on from its destination.
            return None;
        }
        Some(Some(Self {
            next,
            length,
            fragment: None,
        }))
    }

    fn fragment(bytes: &mut Bytes<'_>) -> Option<Self> {
        let next = bytes.u8()?;
        let _reserved = bytes.u8()?;
        let place = bytes.u16()?;
        let id = bytes.u32()?;
        let fragment = Fragment {
            id,
            offset: usize::from(place & !7),
            more: place & 1 != 0,
        };
        // One that is the whole packet is none (RFC 6946).
        let whole = fragment.offset == 0 && !fragment.more;
        Some(Self {
            next,
            length: 8,
            fragment: (!whole).then_some(fragment),
        })
    }
}

/// All headers of a packet for the guest: 14 of Ethernet, 48 of IPv6 with a fragment header, 60 of
/// TCP at most.
pub(crate) type Head = ArrayVec<u8, 128>;

/// Appends to a head, which has room for every header that is written here.
pub(crate) fn put(head: &mut Head, bytes: &[u8]) {
    debug_assert!(bytes.len() <= head.remaining_capacity());
    let _ = head.try_extend_from_slice(bytes);
}

/// Where packets for the guest go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// The guest's hardware address.
    pub(crate) guest: Mac,
    /// The largest IP packet.
    pub(crate) mtu: u16,
}

impl Link {
    /// The Ethernet header of an ARP packet.
    pub(crate) fn arp(&self) -> Head {
        self.ethernet(TYPE_ARP)
    }

    fn ethernet(&self, kind: u16) -> Head {
        let mut head = Head::new();
        put(&mut head, &self.guest);
        put(&mut head, &GATEWAY);
        put(&mut head, &kind.to_be_bytes());
        head
    }

    /// Ethernet and IP headers before `length` bytes of `protocol`; `None` for addresses of
    /// different kinds and for more than a packet can have.
    pub(crate) fn ip(
        &self,
        from: IpAddr,
        to: IpAddr,
        protocol: u8,
        length: usize,
        fragment: Option<Fragment>,
    ) -> Option<Head> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.ipv4(from, to, protocol, length, fragment),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.ipv6(from, to, protocol, length, fragment),
            _ => None,
        }
    }

    fn ipv4(
        &self,
        from: Ipv4Addr,
        to: Ipv4Addr,
        protocol: u8,
        length: usize,
        fragment: Option<Fragment>,
    ) -> Option<Head> {
        const DO_NOT_FRAGMENT: u16 = 0x4000;
        let total = u16::try_from(length.checked_add(20)?).ok()?;
        let (id, place) = match fragment {
            None => (0, DO_NOT_FRAGMENT),
            Some(fragment) => {
                let [_, _, id @ ..] = fragment.id.to_be_bytes();
                let more = u16::from(fragment.more) << 13;
                let offset = u16::try_from(fragment.offset >> 3).ok()?;
                (u16::from_be_bytes(id), more | offset)
            }
        };
        let mut head = self.ethernet(TYPE_IPV4);
        let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[6..8].copy_from_slice(&place.to_be_bytes());
        let mut sum = Sum::default();
        sum.add(&header);
        sum.add(&from.octets());
        sum.add(&to.octets());
        header[10..].copy_from_slice(&sum.finish().to_be_bytes());
        put(&mut head, &header);
        put(&mut head, &from.octets());
        put(&mut head, &to.octets());
        Some(head)
    }

    fn ipv6(
        &self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        protocol: u8,
        length: usize,
        fragment: Option<Fragment>,
    ) -> Option<Head> {
        let extra = if fragment.is_some() { 8 } else { 0 };
        let length = u16::try_from(length.checked_add(extra)?).ok()?;
        let next = fragment.map_or(protocol, |_| FRAGMENT_HEADER);
        // Neighbour discovery is only heeded with the most hops that there are (RFC 4861, 7.1).
        let hops = if protocol == ICMPV6 { 255 } else { 64 };
        let [l0, l1] = length.to_be_bytes();
        let mut head = self.ethernet(TYPE_IPV6);
        put(&mut head, &[0x60, 0, 0, 0, l0, l1, next, hops]);
        put(&mut head, &from.octets());
        put(&mut head, &to.octets());
        if let Some(Fragment { id, offset, more }) = fragment {
            let place = u16::try_from(offset & !7).ok()? | u16::from(more);
            put(&mut head, &[protocol, 0]);
            put(&mut head, &place.to_be_bytes());
            put(&mut head, &id.to_be_bytes());
        }
        Some(head)
    }
}

/// The sum over the addresses that a transport's checksum covers too (RFC 9293, section 3.1, and
/// RFC 8200, section 8.1).
pub(crate) fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Sum {
    let mut sum = Sum::default();
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        }
    }
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    sum.add(&length.to_be_bytes());
    sum.add(&[0, protocol]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        guest: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
    };

    /// A frame as the guest would send it.
    fn from_guest(mut head: Head, payload: &[u8]) -> Vec<u8> {
        head[..6].copy_from_slice(&GATEWAY);
        [&head[..], payload].concat()
    }

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 2, last).into()
    }

    fn v6(last: u16) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into()
    }

    fn ip(frame: &[u8]) -> Option<Ip> {
        match parse(frame, frame.len())? {
            Content::Ip(ip) => Some(ip),
            Content::Arp => panic!("not ARP"),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let pieces = [
            None,
            Some(Fragment {
                id: 77,
                offset: 0,
                more: true,
            }),
            Some(Fragment {
                id: 77,
                offset: 1480,
                more: false,
            }),
        ];
        for (from, to) in [(v4(1), v4(2)), (v6(1), v6(2))] {
            for fragment in pieces {
                let head = LINK.ip(from, to, UDP, 5, fragment).unwrap();
                let start = head.len();
                let frame = from_guest(head, b"hello");
                let expected = Ip {
                    source: from,
                    destination: to,
                    protocol: UDP,
                    start,
                    length: 5,
                    fragment,
                };
                assert_eq!(ip(&frame), Some(expected));
            }
        }
    }

    #[test]
    fn frames_for_others_and_cut_ones_are_nothing() {
        for (from, to) in [(v4(1), v4(2)), (v6(1), v6(2))] {
            let head = LINK.ip(from, to, UDP, 5, None).unwrap();
            let mut frame = from_guest(head, b"hello");
            for length in 0..frame.len() {
                assert_eq!(parse(&frame[..length], length), None, "{length}");
            }
            frame[0] = 4;
            assert_eq!(parse(&frame, frame.len()), None);
        }
    }

    #[test]
    fn an_ipv4_header_with_a_wrong_checksum_is_nothing() {
        let head = LINK.ip(v4(1), v4(2), UDP, 0, None).unwrap();
        let frame = from_guest(head, b"");
        for byte in ETHERNET..frame.len() {
            let mut bad = frame.clone();
            bad[byte] ^= 0x10;
            assert_eq!(parse(&bad, bad.len()), None, "{byte}");
        }
    }

    /// An IPv6 packet with `extensions` before UDP.
    fn extended(first: u8, extensions: &[u8]) -> Vec<u8> {
        let head = LINK.ip(v6(1), v6(2), first, extensions.len() + 8, None);
        from_guest(head.unwrap(), &[extensions, &[0; 8]].concat())
    }

    #[test]
    fn extension_headers_are_passed_over() {
        let options = [60, 0, 1, 4, 0, 0, 0, 0];
        let last = [UDP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let read = ip(&extended(0, &[&options[..], &last[..]].concat())).unwrap();
        assert_eq!((read.protocol, read.start, read.length), (UDP, 54 + 24, 8));
        // A routing header with nothing left to route, then one with something.
        let done = [UDP, 0, 4, 0, 0, 0, 0, 0];
        assert!(ip(&extended(43, &done)).is_some());
        let left = [UDP, 0, 4, 1, 0, 0, 0, 0];
        assert!(ip(&extended(43, &left)).is_none());
        // More of them than anybody needs.
        let many = [0, 0, 1, 4, 0, 0, 0, 0].repeat(9);
        assert!(ip(&extended(0, &many)).is_none());
        // One that is longer than the packet.
        assert!(ip(&extended(0, &[UDP, 9, 1, 4, 0, 0, 0, 0])).is_none());
    }

    #[test]
    fn a_fragment_that_is_the_whole_packet_is_none() {
        let alone = [UDP, 0, 0, 0, 0, 0, 0, 1];
        let read = ip(&extended(FRAGMENT_HEADER, &alone)).unwrap();
        assert_eq!(read.fragment, None);
    }
}
