//! DHCP for guests that ask (RFC 2131): always the same lease.

use std::net::Ipv4Addr;

use wire::net::Subnet;

use crate::bytes::Bytes;

pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;

const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Kinds of messages (RFC 2132, section 9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// Seconds.
const LEASE: u32 = 86400;

/// What a client sent, as far as it matters.
struct Question {
    kind: u8,
    transaction: [u8; 4],
    flags: [u8; 2],
    client: [u8; 4],
    hardware: [u8; 16],
    requested: Option<[u8; 4]>,
    server: Option<[u8; 4]>,
}

impl Question {
    fn parse(message: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(message);
        // A request, over Ethernet, with addresses of 6 bytes.
        if bytes.take(3)? != [1, 1, 6] {
            return None;
        }
        let _hops = bytes.u8()?;
        let transaction = bytes.array()?;
        let _seconds = bytes.u16()?;
        let flags = bytes.array()?;
        let client = bytes.array()?;
        // Yours, the next server's, the relay's.
        let _addresses: [u8; 12] = bytes.array()?;
        let hardware = bytes.array()?;
        // Names of a server and a file.
        let _names: [u8; 192] = bytes.array()?;
        if bytes.array()? != COOKIE {
            return None;
        }
        let mut question = Self {
            kind: 0,
            transaction,
            flags,
            client,
            hardware,
            requested: None,
            server: None,
        };
        question.parse_options(bytes);
        Some(question)
    }

    /// Takes what it knows, up to the end or the first that makes no sense.
    fn parse_options(&mut self, mut bytes: Bytes<'_>) -> Option<()> {
        loop {
            match bytes.u8()? {
                0 => {}
                255 => return Some(()),
                code => {
                    let length = bytes.u8()?.into();
                    match (code, bytes.take(length)?) {
                        (53, [kind]) => self.kind = *kind,
                        (50, address) => self.requested = address.try_into().ok(),
                        (54, address) => self.server = address.try_into().ok(),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Whether the address that it wants is not the guest's.
    fn wants_another(&self, guest: Ipv4Addr) -> bool {
        let renewed = (self.client != [0; 4]).then_some(self.client);
        let wanted = self.requested.or(renewed);
        wanted.is_some_and(|address| address != guest.octets())
    }
}

/// The answer to a message, to be sent to every host on the link.
pub(crate) fn answer(
    message: &[u8],
    subnet: Subnet<Ipv4Addr>,
    mtu: u16,
    hostname: &str,
) -> Option<Vec<u8>> {
    let question = Question::parse(message)?;
    let other = |server: [u8; 4]| server != subnet.gateway.octets();
    if question.server.is_some_and(other) {
        return None;
    }
    let kind = match question.kind {
        DISCOVER => OFFER,
        REQUEST if question.wants_another(subnet.guest) => NAK,
        REQUEST | INFORM => ACK,
        _ => return None,
    };
    let yours = match question.kind {
        DISCOVER | REQUEST if kind != NAK => subnet.guest,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let mut reply = [
        &[2, 1, 6, 0][..],
        &question.transaction,
        &[0; 2],
        &question.flags,
        &question.client,
        &yours.octets(),
        &[0; 8],
        &question.hardware,
        &[0; 192],
        &COOKIE,
    ]
    .concat();
    let mut option = |code: u8, content: &[u8]| {
        if let Ok(length) = u8::try_from(content.len()) {
            reply.extend([code, length]);
            reply.extend(content);
        }
    };
    option(53, &[kind]);
    option(54, &subnet.gateway.octets());
    if kind != NAK {
        let host_bits = 32_u32.saturating_sub(subnet.prefix.into());
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        if question.kind != INFORM {
            option(51, &LEASE.to_be_bytes());
        }
        option(1, &mask.to_be_bytes());
        option(3, &subnet.gateway.octets());
        option(6, &subnet.gateway.octets());
        option(26, &mtu.to_be_bytes());
        if !hostname.is_empty() {
            option(12, hostname.as_bytes());
        }
    }
    reply.push(255);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet() -> Subnet<Ipv4Addr> {
        wire::net::Addresses::default().v4.unwrap()
    }

    fn message(options: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 8] = [
            &[1, 1, 6, 0, 0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0x80, 0],
            &[0; 16],
            &[2, 0, 0, 0, 0, 9],
            &[0; 10],
            &[0; 192],
            &COOKIE,
            options,
            &[255],
        ];
        parts.concat()
    }

    fn ask(options: &[u8]) -> Option<Vec<u8>> {
        answer(&message(options), subnet(), 1500, "box")
    }

    #[test]
    fn a_client_is_offered_its_address_and_gets_it() {
        let offer = ask(&[53, 1, DISCOVER]).unwrap();
        assert!(offer.starts_with(&[2, 1, 6, 0, 0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0x80, 0]));
        assert_eq!(offer.get(16..20), Some(&[10, 0, 2, 15][..]));
        assert_eq!(
            offer.get(236..243),
            Some(&[99, 130, 83, 99, 53, 1, OFFER][..])
        );
        let ack = ask(&[53, 1, REQUEST, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2]).unwrap();
        assert_eq!(ack.get(242), Some(&ACK));
        assert!(ack.ends_with(&[26, 2, 5, 220, 12, 3, b'b', b'o', b'x', 255]));
    }

    #[test]
    fn another_address_is_denied_and_another_server_left_alone() {
        let nak = ask(&[53, 1, REQUEST, 50, 4, 10, 0, 2, 99]).unwrap();
        assert_eq!(nak.get(242), Some(&NAK));
        assert_eq!(nak.get(16..20), Some(&[0; 4][..]));
        assert!(ask(&[53, 1, REQUEST, 54, 4, 10, 0, 2, 77]).is_none());
        assert!(ask(&[53, 1, 7]).is_none());
        assert!(ask(&[]).is_none());
    }

    proptest! {
        #[test]
        fn any_options_end_in_an_answer_or_none(
            options in prop::collection::vec(any::<u8>(), 0..64),
            cut in 0..320_usize,
        ) {
            let whole = message(&options);
            let message = whole.get(..cut).unwrap_or(&whole);
            if let Some(reply) = answer(message, subnet(), 1500, "box") {
                prop_assert!(reply.len() < 320 && reply.ends_with(&[255]));
            }
        }
    }
}
