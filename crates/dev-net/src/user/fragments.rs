//! Putting packets together again (RFC 791, section 3.2; RFC 8200, section 4.5).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::packet::{Fragment, Ip};

/// Packets that are not whole yet; the oldest goes when there is another.
const MAX_PACKETS: usize = 16;

/// How long they have to become whole (RFC 8200: 60 s; nothing here is that slow).
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that a packet can have.
const MAX_LENGTH: usize = 65535;

/// What fragments of one packet have in common.
type Key = (IpAddr, IpAddr, u8, u32);

struct Packet {
    key: Key,
    since: Instant,
    bytes: Vec<u8>,
    /// The parts that are there: from, to; in order and apart.
    parts: Vec<(usize, usize)>,
    length: Option<usize>,
}

/// Packets that are not whole yet.
#[derive(Default)]
pub(crate) struct Fragments {
    packets: VecDeque<Packet>,
}

impl Fragments {
    /// Takes a fragment, and returns the packet's content if it is whole by it. Fragments that
    /// overlap end their packet (RFC 5722).
    pub(crate) fn add(
        &mut self,
        ip: &Ip,
        fragment: Fragment,
        data: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let fresh = |packet: &Packet| now.saturating_duration_since(packet.since) < PATIENCE;
        self.packets.retain(fresh);
        let key = (ip.source, ip.destination, ip.protocol, fragment.id);
        let index = match self.packets.iter().position(|packet| packet.key == key) {
            Some(index) => index,
            None => self.begin(key, now),
        };
        let packet = self.packets.get_mut(index)?;
        match packet.add(fragment, data) {
            Some(false) => None,
            Some(true) => self.packets.remove(index).map(|packet| packet.bytes),
            None => {
                self.packets.remove(index);
                None
            }
        }
    }

    fn begin(&mut self, key: Key, now: Instant) -> usize {
        if self.packets.len() >= MAX_PACKETS {
            self.packets.pop_front();
        }
        self.packets.push_back(Packet {
            key,
            since: now,
            bytes: Vec::new(),
            parts: Vec::new(),
            length: None,
        });
        self.packets.len().saturating_sub(1)
    }
}

impl Packet {
    /// Whether the packet is whole now; `None` if it can never be.
    fn add(&mut self, fragment: Fragment, data: &[u8]) -> Option<bool> {
        let Fragment { offset, more, .. } = fragment;
        let end = offset.checked_add(data.len())?;
        // All but the last come in pieces of eight bytes.
        let odd = more && data.len() & 7 != 0;
        if odd || data.is_empty() || end > MAX_LENGTH {
            return None;
        }
        let at = self.parts.partition_point(|part| part.0 < offset);
        let before = at.checked_sub(1).and_then(|at| self.parts.get(at));
        if before.is_some_and(|part| part.1 > offset)
            || self.parts.get(at).is_some_and(|part| part.0 < end)
        {
            return None;
        }
        if !more && self.length.replace(end).is_some() {
            return None;
        }
        let last = self.parts.last().map_or(end, |part| part.1.max(end));
        if self.length.is_some_and(|length| length < last) {
            return None;
        }
        self.parts.insert(at, (offset, end));
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(offset..end)?.copy_from_slice(data);
        let whole = self
            .parts
            .iter()
            .try_fold(0, |reached, part| (part.0 == reached).then_some(part.1));
        Some(self.length.is_some() && whole == self.length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip() -> Ip {
        Ip {
            source: [10, 0, 2, 15].into(),
            destination: [192, 0, 2, 1].into(),
            protocol: 17,
            start: 34,
            length: 0,
            fragment: None,
        }
    }

    fn add(
        fragments: &mut Fragments,
        id: u32,
        offset: usize,
        more: bool,
        data: &[u8],
    ) -> Option<Vec<u8>> {
        let fragment = Fragment { id, offset, more };
        fragments.add(&ip(), fragment, data, Instant::now())
    }

    proptest! {
        #[test]
        fn a_packet_is_whole_in_any_order(
            length in 9..4000_usize,
            cut in 1..40_usize,
            order in any::<prop::sample::Index>(),
        ) {
            let packet: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let mut pieces: Vec<_> = packet.chunks(cut * 8).enumerate().collect();
            let count = pieces.len();
            pieces.rotate_left(order.index(count));
            let mut fragments = Fragments::default();
            for (at, (index, piece)) in pieces.iter().enumerate() {
                let whole = add(&mut fragments, 1, index * cut * 8, index + 1 < count, piece);
                prop_assert_eq!(whole.is_some(), at + 1 == count);
                if let Some(whole) = whole {
                    prop_assert_eq!(&whole, &packet);
                }
            }
            prop_assert!(fragments.packets.is_empty());
        }
    }

    #[test]
    fn overlapping_fragments_end_their_packet() {
        let mut fragments = Fragments::default();
        assert!(add(&mut fragments, 1, 8, true, &[1; 16]).is_none());
        assert!(add(&mut fragments, 1, 16, true, &[2; 16]).is_none());
        assert!(fragments.packets.is_empty());
        assert!(add(&mut fragments, 1, 8, true, &[1; 16]).is_none());
        assert!(add(&mut fragments, 1, 0, true, &[2; 16]).is_none());
        assert!(fragments.packets.is_empty());
    }

    #[test]
    fn what_is_too_long_or_ends_twice_is_nothing() {
        let mut fragments = Fragments::default();
        assert!(add(&mut fragments, 1, 65528, false, &[1; 8]).is_none());
        assert!(add(&mut fragments, 2, 8, false, &[1; 8]).is_none());
        assert!(add(&mut fragments, 2, 16, false, &[1; 8]).is_none());
        assert!(add(&mut fragments, 3, 16, true, &[1; 8]).is_none());
        assert!(add(&mut fragments, 3, 8, false, &[1; 8]).is_none());
        assert!(add(&mut fragments, 4, 0, true, &[1; 7]).is_none());
        assert!(fragments.packets.is_empty());
    }

    #[test]
    fn there_are_only_so_many_at_a_time() {
        let mut fragments = Fragments::default();
        for id in 0..100 {
            assert!(add(&mut fragments, id, 0, true, &[0; 8]).is_none());
        }
        assert_eq!(fragments.packets.len(), MAX_PACKETS);
    }
}
