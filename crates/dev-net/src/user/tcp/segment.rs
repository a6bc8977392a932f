//! TCP headers (RFC 9293, section 3.1).

use std::num::Wrapping;

use crate::bytes::Bytes;

/// A sequence number.
pub(crate) type Seq = Wrapping<u32>;

/// Bytes from `from` to `to`, which is behind it; none if it is before it.
pub(crate) fn distance(from: Seq, to: Seq) -> Option<usize> {
    const HALF: u32 = 1 << 31;
    let distance = (to - from).0;
    (distance < HALF).then(|| usize::try_from(distance).ok())?
}

/// A sequence number `count` bytes further on.
pub(crate) fn after(seq: Seq, count: usize) -> Seq {
    // Never more than a window, which is below 2^31.
    seq + Wrapping(u32::try_from(count).unwrap_or(0))
}

/// The bits of a header that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags {
    pub(crate) fin: bool,
    pub(crate) syn: bool,
    pub(crate) rst: bool,
    pub(crate) psh: bool,
    pub(crate) ack: bool,
}

impl Flags {
    fn parse(bits: u8) -> Self {
        let bit = |number: u8| bits & (1 << number) != 0;
        Self {
            fin: bit(0),
            syn: bit(1),
            rst: bit(2),
            psh: bit(3),
            ack: bit(4),
        }
    }

    fn encode(self) -> u8 {
        let bits = [self.fin, self.syn, self.rst, self.psh, self.ack];
        bits.into_iter()
            .rev()
            .fold(0, |bits, bit| bits << 1 | u8::from(bit))
    }
}

/// A header without addresses. The options are those of a SYN; others are not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Segment {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) flags: Flags,
    /// As it is in the header: not scaled.
    pub(crate) window: u16,
    /// The largest segment that the sender takes.
    pub(crate) mss: Option<u16>,
    /// How the sender's windows are scaled, 0 to 14 (RFC 7323, section 2.3).
    pub(crate) scale: Option<u8>,
}

/// Where a TCP header has its checksum.
pub(crate) const CHECKSUM_OFFSET: u16 = 16;

/// The longest header that [`Segment::encode`] writes.
pub(crate) type Encoded = arrayvec::ArrayVec<u8, 28>;

impl Segment {
    /// Reads a header at the beginning of `bytes`; its length too.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let all = bytes;
        let mut bytes = Bytes(bytes);
        let source = bytes.u16()?;
        let destination = bytes.u16()?;
        let seq = Wrapping(bytes.u32()?);
        let ack = Wrapping(bytes.u32()?);
        let length = usize::from(bytes.u8()? >> 4).saturating_mul(4);
        let flags = Flags::parse(bytes.u8()?);
        let window = bytes.u16()?;
        let mut segment = Self {
            source,
            destination,
            seq,
            ack,
            flags,
            window,
            mss: None,
            scale: None,
        };
        let options = all.get(20..length)?;
        if flags.syn {
            segment.parse_options(Bytes(options));
        }
        Some((segment, length))
    }

    /// Takes what it knows, up to the end or the first that makes no sense.
    fn parse_options(&mut self, mut bytes: Bytes<'_>) -> Option<()> {
        const END: u8 = 0;
        const NOTHING: u8 = 1;
        const MSS: u8 = 2;
        const SCALE: u8 = 3;
        loop {
            let kind = bytes.u8()?;
            if kind == END {
                return Some(());
            }
            if kind == NOTHING {
                continue;
            }
            let length = usize::from(bytes.u8()?).checked_sub(2)?;
            match (kind, bytes.take(length)?) {
                (MSS, [high, low]) => self.mss = Some(u16::from_be_bytes([*high, *low])),
                (SCALE, [scale]) => self.scale = Some((*scale).min(14)),
                _ => {}
            }
        }
    }

    /// The header, whose checksum field holds `sum`.
    pub(crate) fn encode(&self) -> Encoded {
        let mut bytes = Encoded::new();
        let mut put = |part: &[u8]| {
            // 20 bytes, and 4 for each of the options.
            let _ = bytes.try_extend_from_slice(part);
        };
        let options = usize::from(self.mss.is_some()).saturating_add(self.scale.is_some().into());
        let words = u8::try_from(options).unwrap_or(0).saturating_add(5);
        put(&self.source.to_be_bytes());
        put(&self.destination.to_be_bytes());
        put(&self.seq.0.to_be_bytes());
        put(&self.ack.0.to_be_bytes());
        put(&[words << 4, self.flags.encode()]);
        put(&self.window.to_be_bytes());
        put(&[0; 4]);
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[2, 4, high, low]);
        }
        if let Some(scale) = self.scale {
            put(&[1, 3, 3, scale]);
        }
        bytes
    }

    /// The reset that answers this segment, which belongs to no connection (RFC 9293, section
    /// 3.10.7.1); `None` for a reset.
    pub(crate) fn refusal(&self, payload: usize) -> Option<Self> {
        if self.flags.rst {
            return None;
        }
        let counted = [self.flags.syn, self.flags.fin]
            .into_iter()
            .filter(|bit| *bit)
            .count();
        let end = after(self.seq, payload.saturating_add(counted));
        let answered = self.flags.ack;
        Some(Self {
            source: self.destination,
            destination: self.source,
            seq: if answered { self.ack } else { Wrapping(0) },
            ack: if answered { Wrapping(0) } else { end },
            flags: Flags {
                rst: true,
                ack: !answered,
                ..Flags::default()
            },
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn syn() -> Segment {
        Segment {
            source: 40000,
            destination: 80,
            seq: Wrapping(7),
            flags: Flags {
                syn: true,
                ..Flags::default()
            },
            window: 64240,
            mss: Some(65480),
            scale: Some(7),
            ..Segment::default()
        }
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let bytes = syn().encode();
        assert_eq!(Segment::parse(&bytes), Some((syn(), 28)));
        let plain = Segment {
            flags: Flags {
                ack: true,
                fin: true,
                psh: true,
                ..Flags::default()
            },
            mss: None,
            scale: None,
            ..syn()
        };
        assert_eq!(Segment::parse(&plain.encode()), Some((plain, 20)));
    }

    #[test]
    fn options_that_make_no_sense_end_the_options() {
        let mut bytes = syn().encode().to_vec();
        // The length of the MSS option.
        for length in [0, 1, 3, 40] {
            *bytes.get_mut(21).unwrap() = length;
            let (segment, _) = Segment::parse(&bytes).unwrap();
            assert_eq!(segment.mss, None, "{length}");
        }
    }

    #[test]
    fn a_segment_that_belongs_nowhere_is_refused_as_the_rfc_says() {
        let refusal = syn().refusal(3).unwrap();
        assert_eq!((refusal.source, refusal.destination), (80, 40000));
        assert!(refusal.flags.rst && refusal.flags.ack);
        // The SYN counts, and so does what came with it.
        assert_eq!((refusal.seq, refusal.ack), (Wrapping(0), Wrapping(11)));
        let answered = Segment {
            ack: Wrapping(99),
            flags: Flags {
                ack: true,
                ..Flags::default()
            },
            ..syn()
        };
        let refusal = answered.refusal(0).unwrap();
        assert_eq!((refusal.seq, refusal.flags.ack), (Wrapping(99), false));
        assert_eq!(refusal.refusal(0), None);
    }

    #[test]
    fn distances_go_forward_and_around() {
        assert_eq!(distance(Wrapping(5), Wrapping(9)), Some(4));
        assert_eq!(distance(Wrapping(9), Wrapping(5)), None);
        assert_eq!(distance(Wrapping(u32::MAX), Wrapping(2)), Some(3));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some((segment, length)) = Segment::parse(&bytes) {
                prop_assert!(length >= 20 && length <= bytes.len());
                prop_assert!(segment.scale.unwrap_or(0) <= 14);
            }
        }
    }
}
