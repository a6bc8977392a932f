//! Echo requests and replies as a socket for them has them: from the type on (RFC 792 and RFC
//! 4443, section 4). The kernel fills the checksum and an identifier in, and finds replies by them.

/// Of ICMP and ICMPv6.
const REQUEST: [u8; 2] = [8, 128];
const REPLY: [u8; 2] = [0, 129];

/// A request.
pub(crate) fn request(is_v6: bool, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let [v4, v6] = REQUEST;
    let kind = if is_v6 { v6 } else { v4 };
    let [high, low] = sequence.to_be_bytes();
    [&[kind, 0, 0, 0, 0, 0, high, low], payload].concat()
}

/// The sequence number and payload of a reply.
pub(crate) fn reply(is_v6: bool, packet: &[u8]) -> Option<(u16, &[u8])> {
    let ([kind, 0, _, _, _, _, high, low], payload) = packet.split_first_chunk()? else {
        return None;
    };
    let [v4, v6] = REPLY;
    let expected = if is_v6 { v6 } else { v4 };
    (*kind == expected).then(|| (u16::from_be_bytes([*high, *low]), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_what_a_request_becomes_with_another_type() {
        for (is_v6, kind) in [(false, 0), (true, 129)] {
            let mut packet = request(is_v6, 0x1234, b"hello");
            assert_eq!(reply(is_v6, &packet), None);
            packet[0] = kind;
            assert_eq!(reply(is_v6, &packet), Some((0x1234, &b"hello"[..])));
            assert_eq!(reply(!is_v6, &packet), None);
            assert_eq!(reply(is_v6, &packet[..7]), None);
        }
    }
}
