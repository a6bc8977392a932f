//! Frames written and read by hand.

use std::net::{Ipv4Addr, SocketAddrV4};

pub const GATEWAY: [u8; 6] = *b"\x02crumb";
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

pub fn ethernet(kind: u16, content: &[u8]) -> Vec<u8> {
    [&GATEWAY[..], &super::MAC, &kind.to_be_bytes(), content].concat()
}

/// An IPv4 packet of the guest's, whole or a fragment: the identification, and flags and offset.
pub fn ipv4(to: Ipv4Addr, protocol: u8, content: &[u8], (id, place): (u16, u16)) -> Vec<u8> {
    let total = (20 + content.len()) as u16;
    let header = [
        &[0x45, 0][..],
        &total.to_be_bytes(),
        &id.to_be_bytes(),
        &place.to_be_bytes(),
        &[64, protocol],
    ]
    .concat();
    let (from, to) = (GUEST.octets(), to.octets());
    let sum = checksum(&[&header, &from, &to]);
    ethernet(0x800, &[&header[..], &sum, &from, &to, content].concat())
}

pub fn pseudo(to: Ipv4Addr, protocol: u8, length: usize) -> Vec<u8> {
    let length = (length as u32).to_be_bytes();
    [&GUEST.octets()[..], &to.octets(), &length, &[0, protocol]].concat()
}

pub fn udp_datagram(from: u16, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut datagram = [
        &from.to_be_bytes()[..],
        &to.port().to_be_bytes(),
        &length.to_be_bytes(),
        &[0, 0],
        payload,
    ]
    .concat();
    let sum = checksum(&[&pseudo(*to.ip(), 17, datagram.len()), &datagram]);
    datagram[6..8].copy_from_slice(&sum);
    datagram
}

pub fn udp(from: u16, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    ipv4(*to.ip(), 17, &udp_datagram(from, to, payload), (0, 0))
}

pub fn tcp(from: u16, to: SocketAddrV4, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = [
        &from.to_be_bytes()[..],
        &to.port().to_be_bytes(),
        &seq.to_be_bytes(),
        &ack.to_be_bytes(),
        &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0],
        payload,
    ]
    .concat();
    let sum = checksum(&[&pseudo(*to.ip(), 6, segment.len()), &segment]);
    segment[16..18].copy_from_slice(&sum);
    ipv4(*to.ip(), 6, &segment, (0, 0))
}

/// What the guest got over IPv4: from whom, protocol, content.
pub fn read_ipv4(frame: &[u8]) -> (Ipv4Addr, u8, &[u8]) {
    assert_eq!(&frame[..6], &super::MAC);
    assert_eq!(&frame[12..14], &[8, 0]);
    let ip = &frame[14..];
    assert_eq!(
        checksum(&[&ip[..20]]),
        [0, 0],
        "the header's checksum is wrong"
    );
    let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    assert_eq!(ip.len(), length);
    let from = <[u8; 4]>::try_from(&ip[12..16]).unwrap();
    (from.into(), ip[9], &ip[20..])
}
