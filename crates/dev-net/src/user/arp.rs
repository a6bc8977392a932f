//! Address resolution (RFC 826).

use std::net::Ipv4Addr;

use crate::bytes::Bytes;
use crate::packet::{ETHERNET, GATEWAY, Head, Link, put};

/// Ethernet, IPv4, and the lengths of their addresses.
const KINDS: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: [u8; 2] = [0, 2];

/// The answer to a request in a frame that begins with `head`, if `ours` is asked for.
pub(crate) fn answer(link: &Link, head: &[u8], ours: impl Fn(Ipv4Addr) -> bool) -> Option<Head> {
    let mut bytes = Bytes(head.get(ETHERNET..)?);
    let kinds: [u8; 6] = bytes.array()?;
    if kinds != KINDS || bytes.u16()? != REQUEST {
        return None;
    }
    let sender: [u8; 6] = bytes.array()?;
    let sender_address: [u8; 4] = bytes.array()?;
    let _target: [u8; 6] = bytes.array()?;
    let target_address: [u8; 4] = bytes.array()?;
    if !ours(Ipv4Addr::from(target_address)) {
        return None;
    }
    let link = Link {
        guest: sender,
        ..*link
    };
    let mut reply = link.arp();
    put(&mut reply, &KINDS);
    put(&mut reply, &REPLY);
    put(&mut reply, &GATEWAY);
    put(&mut reply, &target_address);
    put(&mut reply, &sender);
    put(&mut reply, &sender_address);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        guest: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
    };

    fn request(target: [u8; 4]) -> Vec<u8> {
        let parts: [&[u8]; 7] = [
            &[0xff; 6],
            &[2, 0, 0, 0, 0, 9, 8, 6],
            &KINDS,
            &[0, 1, 2, 0, 0, 0, 0, 9],
            &[10, 0, 2, 15],
            &[0; 6],
            &target,
        ];
        parts.concat()
    }

    #[test]
    fn only_our_addresses_are_answered_for() {
        let gateway = Ipv4Addr::new(10, 0, 2, 2);
        let ours = |address| address == gateway;
        let reply = answer(&LINK, &request([10, 0, 2, 2]), ours).unwrap();
        let (header, content) = reply.split_at(ETHERNET);
        assert_eq!(header, b"\x02\0\0\0\0\x09\x02crumb\x08\x06");
        let expected: [&[u8]; 6] = [
            &KINDS,
            &[0, 2],
            b"\x02crumb\x0a\0\x02\x02",
            &[2, 0, 0, 0, 0, 9],
            &[10, 0, 2, 15],
            &[],
        ];
        assert_eq!(content, expected.concat());
        assert!(answer(&LINK, &request([10, 0, 2, 15]), ours).is_none());
    }

    #[test]
    fn what_is_cut_or_no_request_is_not_answered() {
        let whole = request([10, 0, 2, 2]);
        for length in 0..whole.len() {
            let cut = whole.get(..length).unwrap();
            assert!(answer(&LINK, cut, |_| true).is_none(), "{length}");
        }
        let mut reply = whole;
        *reply.get_mut(21).unwrap() = 2;
        assert!(answer(&LINK, &reply, |_| true).is_none());
    }
}
