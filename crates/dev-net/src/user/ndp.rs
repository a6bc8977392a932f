//! Neighbour discovery (RFC 4861): who has an address, and where the router is.

use std::net::Ipv6Addr;

use wire::net::Subnet;

use crate::bytes::Bytes;
use crate::packet::GATEWAY;

use super::addresses::LINK_LOCAL;

/// Types of messages.
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Seconds that the router and its name server are good for (RFC 4861, section 6.2.1).
const LIFETIME: u16 = 1800;

/// An answer: from whom, and the message without its checksum.
pub(crate) type Answer = (Ipv6Addr, Vec<u8>);

/// The answer to `message`, if `ours` is asked for or the router is.
pub(crate) fn answer(
    message: &[u8],
    subnet: Option<Subnet<Ipv6Addr>>,
    mtu: u16,
    ours: impl Fn(Ipv6Addr) -> bool,
) -> Option<Answer> {
    let mut bytes = Bytes(message);
    let kind = bytes.u8()?;
    if bytes.u8()? != 0 {
        return None;
    }
    // Checksum, and a field that is reserved.
    let _rest: [u8; 6] = bytes.array()?;
    match kind {
        NEIGHBOUR_SOLICITATION => {
            let target = Ipv6Addr::from(bytes.array::<16>()?);
            ours(target).then(|| (target, neighbour(target)))
        }
        ROUTER_SOLICITATION => Some((LINK_LOCAL, router(subnet?, mtu))),
        _ => None,
    }
}

/// Router, solicited, override; the target and its hardware address (sections 4.4 and 4.6.1).
fn neighbour(target: Ipv6Addr) -> Vec<u8> {
    let header = [NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0xe0, 0, 0, 0];
    [&header[..], &target.octets(), &[2, 1], &GATEWAY].concat()
}

fn router(subnet: Subnet<Ipv6Addr>, mtu: u16) -> Vec<u8> {
    const DAY: [u8; 4] = 86400_u32.to_be_bytes();
    let [l0, l1] = LIFETIME.to_be_bytes();
    let [m0, m1] = mtu.to_be_bytes();
    let mut prefix = subnet.guest.to_bits();
    let host_bits = 128_u32.saturating_sub(subnet.prefix.into());
    prefix &= u128::MAX.checked_shl(host_bits).unwrap_or(0);
    let parts: [&[u8]; 10] = [
        // Hop limit 64, no DHCPv6.
        &[ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, l0, l1],
        // Reachable and retransmission times: unspecified.
        &[0; 8],
        // Source link-layer address.
        &[1, 1],
        &GATEWAY,
        // MTU.
        &[5, 1, 0, 0, 0, 0, m0, m1],
        // Prefix, on-link and for autoconfiguration, with its two lifetimes.
        &[3, 4, subnet.prefix, 0xc0],
        &[DAY, DAY, [0; 4]].concat(),
        &prefix.to_be_bytes(),
        // A recursive name server (RFC 8106, section 5.1).
        &[25, 3, 0, 0, 0, 0, l0, l1],
        &subnet.gateway.octets(),
    ];
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet() -> Subnet<Ipv6Addr> {
        wire::net::Addresses::default().v6.unwrap()
    }

    #[test]
    fn a_neighbour_is_told_if_it_is_us() {
        let gateway = subnet().gateway;
        let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &gateway.octets()].concat();
        let ours = |address| address == gateway;
        let (from, reply) = answer(&message, Some(subnet()), 1500, ours).unwrap();
        assert_eq!(from, gateway);
        assert!(reply.starts_with(&[136, 0, 0, 0, 0xe0]));
        assert!(reply.ends_with(b"\x02\x01\x02crumb"));
        assert_eq!(answer(&message, Some(subnet()), 1500, |_| false), None);
        let cut = message.get(..20).unwrap();
        assert_eq!(answer(cut, Some(subnet()), 1500, |_| true), None);
    }

    #[test]
    fn the_router_tells_prefix_mtu_and_name_server() {
        let message = [133, 0, 0, 0, 0, 0, 0, 0];
        let (from, reply) = answer(&message, Some(subnet()), 1500, |_| false).unwrap();
        assert_eq!(from, LINK_LOCAL);
        // 16 bytes, then options of 8, 8, 32 and 24 bytes.
        assert_eq!(reply.len(), 88);
        assert_eq!(reply.get(24..32), Some(&[5, 1, 0, 0, 0, 0, 5, 220][..]));
        assert_eq!(reply.get(32..36), Some(&[3, 4, 64, 0xc0][..]));
        assert!(reply.ends_with(&subnet().gateway.octets()));
        assert_eq!(answer(&message, None, 1500, |_| false), None);
    }
}
