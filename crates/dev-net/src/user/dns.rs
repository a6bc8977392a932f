//! Names that only this network has (RFC 1035, section 4). All others are the host's name servers'
//! to know.

use std::net::IpAddr;

use wire::net::Addresses;

use crate::bytes::Bytes;

pub(crate) const PORT: u16 = 53;

const HOST: &[&[u8]] = &[b"host", b"internal"];
const GATEWAY: &[&[u8]] = &[b"gateway", b"internal"];

/// Types and the class of questions.
const A: u16 = 1;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;

/// Seconds that an answer may be kept.
const TIME_TO_LIVE: u32 = 60;

/// A question that is alone in its message.
struct Question<'a> {
    id: [u8; 2],
    recursion_desired: bool,
    labels: Vec<&'a [u8]>,
    kind: u16,
    /// As it stands in the message.
    bytes: &'a [u8],
}

impl<'a> Question<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let mut bytes = Bytes(message);
        let id = bytes.array()?;
        let flags = bytes.u16()?;
        // A standard query, with one question and no records before those that extend it.
        if flags & 0xf800 != 0 || bytes.array()? != [0, 1, 0, 0, 0, 0] {
            return None;
        }
        let _additional = bytes.u16()?;
        let question = bytes.0;
        let mut labels = Vec::new();
        loop {
            match bytes.u8()? {
                0 => break,
                // 64 and more are compressed, which a lone question cannot be.
                length @ 1..64 => labels.push(bytes.take(length.into())?),
                _ => return None,
            }
        }
        let kind = bytes.u16()?;
        if bytes.u16()? != INTERNET {
            return None;
        }
        let length = question.len().checked_sub(bytes.0.len())?;
        Some(Self {
            id,
            recursion_desired: flags & 0x100 != 0,
            labels,
            kind,
            bytes: question.get(..length)?,
        })
    }

    fn is(&self, name: &[&[u8]]) -> bool {
        let same = |(left, right): (&&[u8], &&[u8])| left.eq_ignore_ascii_case(right);
        self.labels.len() == name.len() && self.labels.iter().zip(name).all(same)
    }

    fn answer(&self, address: Option<IpAddr>) -> Vec<u8> {
        let count = u8::from(address.is_some());
        // A response that is authoritative, from where recursion is to be had.
        let flags = [0x84 | u8::from(self.recursion_desired), 0x80];
        let header = [0, 1, 0, count, 0, 0, 0, 0];
        let mut message = [&self.id[..], &flags, &header, self.bytes].concat();
        if let Some(address) = address {
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            // The name is the question's, which is behind the header.
            message.extend([0xc0, 12]);
            message.extend(self.kind.to_be_bytes());
            message.extend(INTERNET.to_be_bytes());
            message.extend(TIME_TO_LIVE.to_be_bytes());
            message.extend([0, u8::try_from(octets.len()).unwrap_or(0)]);
            message.extend(octets);
        }
        message
    }
}

/// The answer to a question for one of our names; `None` if others are to be asked.
pub(crate) fn answer(addresses: &Addresses, message: &[u8]) -> Option<Vec<u8>> {
    let question = Question::parse(message)?;
    let (v4, v6) = (addresses.v4, addresses.v6);
    let (v4, v6) = if question.is(HOST) {
        (v4.map(|subnet| subnet.host), v6.map(|subnet| subnet.host))
    } else if question.is(GATEWAY) {
        (
            v4.map(|subnet| subnet.gateway),
            v6.map(|subnet| subnet.gateway),
        )
    } else {
        return None;
    };
    let address = match question.kind {
        A => v4.map(IpAddr::V4),
        AAAA => v6.map(IpAddr::V6),
        _ => None,
    };
    Some(question.answer(address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    fn ask(name: &str, kind: u16) -> Option<Vec<u8>> {
        answer(&Addresses::default(), &question(name, kind))
    }

    #[test]
    fn our_names_have_addresses() {
        let reply = ask("Host.Internal", A).unwrap();
        assert!(reply.starts_with(&[0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1]));
        assert!(reply.ends_with(&[0, 4, 10, 0, 2, 3]));
        let reply = ask("gateway.internal", AAAA).unwrap();
        let end = [
            0xfd, 0x63, 0x72, 0x75, 0x6d, 0x62, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        ];
        assert!(reply.ends_with(&end));
    }

    #[test]
    fn our_names_have_nothing_else() {
        let reply = ask("host.internal", 16).unwrap();
        assert!(reply.starts_with(&[0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 0]));
    }

    #[test]
    fn other_names_are_for_others() {
        for name in [
            "example.org",
            "internal",
            "a.host.internal",
            "xhost.internal",
        ] {
            assert!(ask(name, A).is_none(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_answered_or_not(message in prop::collection::vec(any::<u8>(), 0..80)) {
            answer(&Addresses::default(), &message);
        }

        #[test]
        fn a_changed_question_is_answered_or_not(at in 0..33_usize, byte: u8) {
            let mut message = question("host.internal", A);
            if let Some(place) = message.get_mut(at) {
                *place = byte;
            }
            answer(&Addresses::default(), &message);
        }
    }
}
