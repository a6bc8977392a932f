//! Messages of rtnetlink(7), as bytes.
//!
//! Numbers and layouts are those of `linux/netlink.h`, `rtnetlink.h`, `if_link.h` and `if_addr.h`.
//! Integers are in the machine's byte order, addresses in the network's.

use std::net::IpAddr;

use nix::errno::Errno;

/// Message types.
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

/// Flags of every message: it is a request, and its outcome is to be told.
const ASKED: u16 = 0x01 | 0x04;
/// `NLM_F_REPLACE` and `NLM_F_CREATE`: what is there already is made what was asked for.
const MADE: u16 = 0x100 | 0x400;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An interface takes part in traffic.
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;

/// The address is used without asking the network whether another has it.
const IFA_F_NODAD: u8 = 2;
const IFA_LOCAL: u16 = 2;

const RT_TABLE_MAIN: u8 = 254;
/// As what the administrator's tools make at boot.
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// The gateway is on the link, whatever the addresses' prefixes say.
const RTNH_F_ONLINK: u32 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

/// The size of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A request without its length and sequence number, which [`Message::finish`] fills in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// Brings an interface up, with this MTU or the one that it has.
    pub(crate) fn link_up(index: u32, mtu: Option<u16>) -> Self {
        // struct ifinfomsg: family, padding, type, index, flags, and which flags change.
        let body = [
            [0; 4],
            index.to_ne_bytes(),
            IFF_UP.to_ne_bytes(),
            IFF_UP.to_ne_bytes(),
        ];
        let message = Self::new(RTM_NEWLINK, ASKED, body.concat());
        match mtu {
            Some(mtu) => message.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes()),
            None => message,
        }
    }

    /// Gives an interface an address, with the bits of its subnet's prefix.
    pub(crate) fn address(index: u32, address: IpAddr, prefix: u8) -> Self {
        let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
        // struct ifaddrmsg: family, prefix, flags, scope (0: everywhere), index.
        let body = [[family(address), prefix, flags, 0], index.to_ne_bytes()];
        let message = Self::new(RTM_NEWADDR, ASKED | MADE, body.concat());
        message.attribute(IFA_LOCAL, &octets(address))
    }

    /// Sends what has no better route to `gateway`, through an interface.
    pub(crate) fn default_route(index: u32, gateway: IpAddr) -> Self {
        // struct rtmsg: family, prefixes of destination and source, type of service; table,
        // protocol, scope (0: everywhere), type; flags.
        let body = [
            [family(gateway), 0, 0, 0],
            [RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST],
            RTNH_F_ONLINK.to_ne_bytes(),
        ];
        Self::new(RTM_NEWROUTE, ASKED | MADE, body.concat())
            .attribute(RTA_GATEWAY, &octets(gateway))
            .attribute(RTA_OIF, &index.to_ne_bytes())
    }

    const fn new(kind: u16, flags: u16, body: Vec<u8>) -> Self {
        Self { kind, flags, body }
    }

    /// Adds a `struct rtattr`: length without padding, type, value, padding to four bytes.
    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        // No value is longer than an address, 16 bytes.
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    /// The message as it is sent.
    pub(crate) fn finish(&self, sequence: u32) -> Vec<u8> {
        // No message of ours comes near the limit.
        let length = u32::try_from(self.body.len().saturating_add(HEADER)).unwrap_or(u32::MAX);
        // struct nlmsghdr: length, type, flags, sequence number, port (0: the kernel's).
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.body);
        bytes
    }
}

/// What a datagram of the kernel says of the request with this number; none if it says nothing.
pub(crate) fn outcome(datagram: &[u8], sequence: u32) -> Option<nix::Result<()>> {
    let (header, body) = datagram.split_first_chunk::<HEADER>()?;
    let [_, _, _, _, kind, kind_end, _, _, number @ .., _, _, _, _] = header;
    let number = number.first_chunk::<4>()?;
    if u16::from_ne_bytes([*kind, *kind_end]) != NLMSG_ERROR
        || u32::from_ne_bytes(*number) != sequence
    {
        return None;
    }
    // struct nlmsgerr: a negative error number or 0, then the request.
    match i32::from_ne_bytes(*body.first_chunk::<4>()?) {
        0 => Some(Ok(())),
        error => Some(Err(Errno::from_raw(error.saturating_neg()))),
    }
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The parts of a message, each on a line with what it is.
    fn bytes(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn an_interface_comes_up_with_an_mtu() {
        let expected = bytes(&[
            &[40, 0, 0, 0], // length: 16 + 16 + 8
            &[16, 0],       // RTM_NEWLINK
            &[5, 0],        // NLM_F_REQUEST | NLM_F_ACK
            &[7, 0, 0, 0],  // sequence number
            &[0; 4],        // to the kernel
            &[0, 0, 0, 0],  // AF_UNSPEC, padding, type
            &[2, 0, 0, 0],  // index
            &[1, 0, 0, 0],  // IFF_UP
            &[1, 0, 0, 0],  // of which this changes
            &[8, 0, 4, 0],  // 8 bytes of IFLA_MTU
            &[0xf0, 0xff, 0, 0],
        ]);
        assert_eq!(Message::link_up(2, Some(65520)).finish(7), expected);
        assert_eq!(Message::link_up(1, None).finish(0).len(), 32);
    }

    #[test]
    fn an_address_of_ipv4_has_its_prefix() {
        let expected = bytes(&[
            &[32, 0, 0, 0],  // length: 16 + 8 + 8
            &[20, 0],        // RTM_NEWADDR
            &[5, 5],         // and NLM_F_REPLACE | NLM_F_CREATE
            &[1, 0, 0, 0],   // sequence number
            &[0; 4],         // to the kernel
            &[2, 24, 0, 0],  // AF_INET, prefix, flags, RT_SCOPE_UNIVERSE
            &[3, 0, 0, 0],   // index
            &[8, 0, 2, 0],   // 8 bytes of IFA_LOCAL
            &[10, 0, 2, 15], // in the network's order
        ]);
        let message = Message::address(3, [10, 0, 2, 15].into(), 24);
        assert_eq!(message.finish(1), expected);
    }

    #[test]
    fn an_address_of_ipv6_is_not_asked_about() {
        let address = [0xfd00, 0, 0, 0, 0, 0, 0, 0xf].into();
        let message = Message::address(3, IpAddr::V6(address), 64).finish(1);
        assert_eq!(message.len(), 44);
        assert_eq!(message[16..20], [10, 64, 2, 0]); // AF_INET6, prefix, IFA_F_NODAD
        assert_eq!(message[24..28], [20, 0, 2, 0]); // 20 bytes of IFA_LOCAL
        assert_eq!(message[28..], address.octets());
    }

    #[test]
    fn a_default_route_has_no_destination() {
        let expected = bytes(&[
            &[44, 0, 0, 0],  // length: 16 + 12 + 8 + 8
            &[24, 0],        // RTM_NEWROUTE
            &[5, 5],         // flags
            &[1, 0, 0, 0],   // sequence number
            &[0; 4],         // to the kernel
            &[2, 0, 0, 0],   // AF_INET, of 0 bits, from 0 bits, any type of service
            &[254, 3, 0, 1], // main table, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST
            &[4, 0, 0, 0],   // RTNH_F_ONLINK
            &[8, 0, 5, 0],   // 8 bytes of RTA_GATEWAY
            &[10, 0, 2, 2],  // in the network's order
            &[8, 0, 4, 0],   // 8 bytes of RTA_OIF
            &[3, 0, 0, 0],   // index
        ]);
        let message = Message::default_route(3, [10, 0, 2, 2].into());
        assert_eq!(message.finish(1), expected);
    }

    /// An answer as in netlink(7): a header of type NLMSG_ERROR, a number, the request's header.
    fn answer(kind: u16, sequence: u32, error: i32) -> Vec<u8> {
        bytes(&[
            &36u32.to_ne_bytes(),
            &kind.to_ne_bytes(),
            &[0; 2],
            &sequence.to_ne_bytes(),
            &[0; 4],
            &error.to_ne_bytes(),
            &[0; 16],
        ])
    }

    #[test]
    fn an_answer_is_told_from_others() {
        assert_eq!(outcome(&answer(2, 5, 0), 5), Some(Ok(())));
        let exists = -libc::EEXIST;
        assert_eq!(outcome(&answer(2, 5, exists), 5), Some(Err(Errno::EEXIST)));
        assert_eq!(outcome(&answer(2, 6, 0), 5), None);
        assert_eq!(outcome(&answer(3, 5, 0), 5), None);
        assert_eq!(outcome(&answer(2, 5, 0)[..19], 5), None);
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = outcome(&bytes, 1);
        }

        #[test]
        fn lengths_are_whole_and_say_so(index: u32, address: IpAddr, prefix: u8, mtu: u16) {
            for message in [
                Message::link_up(index, Some(mtu)),
                Message::address(index, address, prefix),
                Message::default_route(index, address),
            ] {
                let bytes = message.finish(index);
                prop_assert_eq!(bytes.len() % 4, 0);
                prop_assert_eq!(&bytes[..4], u32::try_from(bytes.len()).unwrap().to_ne_bytes());
            }
        }
    }
}
