//! ICMP and ICMPv6 (RFC 792, RFC 4443): echo, and what went wrong.

use std::net::{IpAddr, SocketAddr};

use crate::bytes::Bytes;
use crate::packet::{self, ICMP, ICMPV6, TCP, UDP};

/// An echo request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo<'a> {
    pub(crate) identifier: u16,
    pub(crate) sequence: u16,
    pub(crate) payload: &'a [u8],
}

/// The protocol number for addresses of the kind of `address`.
pub(crate) fn protocol(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => ICMP,
        IpAddr::V6(_) => ICMPV6,
    }
}

/// Reads an echo request, of either version.
pub(crate) fn echo_request(version: u8, message: &[u8]) -> Option<Echo<'_>> {
    let request = if version == ICMP { 8 } else { 128 };
    let mut bytes = Bytes(message);
    if bytes.u8()? != request || bytes.u8()? != 0 {
        return None;
    }
    let _checksum = bytes.u16()?;
    Some(Echo {
        identifier: bytes.u16()?,
        sequence: bytes.u16()?,
        payload: bytes.0,
    })
}

/// An echo reply, without its checksum.
pub(crate) fn echo_reply(version: u8, echo: &Echo<'_>) -> Vec<u8> {
    let reply = if version == ICMP { 0 } else { 129 };
    let [i0, i1] = echo.identifier.to_be_bytes();
    let [s0, s1] = echo.sequence.to_be_bytes();
    let header = [reply, 0, 0, 0, i0, i1, s0, s1];
    [&header, echo.payload].concat()
}

/// Why something of the guest's did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Nobody has the port.
    Port,
    /// There is no way to the address.
    Address,
    /// It is forbidden.
    Prohibited,
}

impl Reason {
    /// Type and code: destination unreachable, and why.
    const fn code(self, version: u8) -> [u8; 2] {
        match (self, version == ICMP) {
            (Self::Port, true) => [3, 3],
            (Self::Address, true) => [3, 1],
            (Self::Prohibited, true) => [3, 13],
            (Self::Port, false) => [1, 4],
            (Self::Address, false) => [1, 3],
            (Self::Prohibited, false) => [1, 1],
        }
    }
}

/// What the guest sent, as far as an error repeats it: addresses, and the beginning of the
/// transport's header, which has ports and, of TCP, the sequence number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) protocol: u8,
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) seq: u32,
}

/// The error that says that `sent` did not arrive, without its checksum.
pub(crate) fn unreachable(sent: &Sent, reason: Reason) -> Option<Vec<u8>> {
    let version = protocol(sent.remote.ip());
    let link = packet::Link {
        guest: packet::GATEWAY,
        mtu: 0,
    };
    let (from, to) = (sent.guest.ip(), sent.remote.ip());
    let head = link.ip(from, to, sent.protocol, 8, None)?;
    let [p0, p1] = sent.guest.port().to_be_bytes();
    let [q0, q1] = sent.remote.port().to_be_bytes();
    let [s0, s1, s2, s3] = sent.seq.to_be_bytes();
    let transport = match sent.protocol {
        TCP => [p0, p1, q0, q1, s0, s1, s2, s3],
        UDP => [p0, p1, q0, q1, 0, 8, 0, 0],
        // An echo request: the guest's port is the identifier.
        ICMP => [8, 0, 0, 0, p0, p1, 0, 0],
        _ => [128, 0, 0, 0, p0, p1, 0, 0],
    };
    let [kind, code] = reason.code(version);
    let header = [kind, code, 0, 0, 0, 0, 0, 0];
    let ip = head.get(packet::ETHERNET..)?;
    Some([&header, ip, &transport].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_a_reply() {
        for (version, request, reply) in [(ICMP, 8, 0), (ICMPV6, 128, 129)] {
            let message = [request, 0, 9, 9, 1, 2, 3, 4, b'x', b'y'];
            let echo = echo_request(version, &message).unwrap();
            assert_eq!((echo.identifier, echo.sequence), (0x102, 0x304));
            let answer = echo_reply(version, &echo);
            assert_eq!(answer, [reply, 0, 0, 0, 1, 2, 3, 4, b'x', b'y']);
            assert_eq!(echo_request(version, &answer), None);
            assert_eq!(echo_request(version, message.get(..7).unwrap()), None);
        }
    }

    #[test]
    fn an_error_repeats_what_was_sent() {
        let sent = Sent {
            protocol: UDP,
            guest: "10.0.2.15:4000".parse().unwrap(),
            remote: "192.0.2.1:53".parse().unwrap(),
            seq: 0,
        };
        let error = unreachable(&sent, Reason::Port).unwrap();
        assert!(error.starts_with(&[3, 3, 0, 0, 0, 0, 0, 0, 0x45]));
        assert!(error.ends_with(&[0x0f, 0xa0, 0, 53, 0, 8, 0, 0]));
        let sent = Sent {
            guest: "[fd00::1]:1".parse().unwrap(),
            remote: "[fd00::2]:2".parse().unwrap(),
            ..sent
        };
        let error = unreachable(&sent, Reason::Prohibited).unwrap();
        assert_eq!(error.get(..2), Some(&[1, 1][..]));
        assert_eq!(error.len(), 8 + 40 + 8);
    }
}
