//! The Internet checksum (RFC 1071).

/// A sum of 16-bit words that is not folded yet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum {
    sum: u64,
    /// An odd number of bytes was added: the next one is the low half of a word.
    odd: bool,
}

impl Sum {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let bytes = match bytes.split_first() {
            Some((first, rest)) if self.odd => {
                self.word(u64::from(*first));
                self.odd = false;
                rest
            }
            _ => bytes,
        };
        // Sums of 32-bit words fold to the same as of 16-bit words; 2^32 of them fit.
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            self.word(u32::from_be_bytes(*word).into());
        }
        let (pairs, last) = rest.as_chunks::<2>();
        for pair in pairs {
            self.word(u16::from_be_bytes(*pair).into());
        }
        if let [last] = last {
            self.word(u64::from(*last) << 8);
            self.odd = true;
        }
    }

    fn word(&mut self, word: u64) {
        self.sum = self.sum.wrapping_add(word);
    }

    /// One's complement of the sum, as it goes into a header.
    pub(crate) fn finish(self) -> u16 {
        !self.partial()
    }

    /// As [`Sum::finish`], for a transport's header. 0 says of UDP that there is no checksum; the
    /// other zero is the same (RFC 768).
    pub(crate) fn finish_transport(self) -> u16 {
        match self.finish() {
            0 => u16::MAX,
            value => value,
        }
    }

    /// The sum itself: what a checksum field holds that somebody else is to complete.
    pub(crate) fn partial(self) -> u16 {
        let mut sum = self.sum;
        while let Some(carry @ 1..) = sum.checked_shr(16) {
            sum = (sum & 0xffff).saturating_add(carry);
        }
        u16::try_from(sum).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, section 3.
    const EXAMPLE: [u8; 8] = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];

    #[test]
    fn the_rfcs_example_sums_to_ddf2() {
        let mut sum = Sum::default();
        sum.add(&EXAMPLE);
        assert_eq!(sum.partial(), 0xddf2);
        assert_eq!(sum.finish(), !0xddf2);
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut() {
        let bytes: Vec<u8> = (0..61_u8).map(|byte| byte.wrapping_mul(37)).collect();
        let mut whole = Sum::default();
        whole.add(&bytes);
        for cut in 0..=bytes.len() {
            let (left, right) = bytes.split_at(cut);
            let mut sum = Sum::default();
            sum.add(left);
            sum.add(&[]);
            sum.add(right);
            assert_eq!(sum.finish(), whole.finish(), "{cut}");
        }
    }

    #[test]
    fn a_packet_with_its_checksum_sums_to_nothing() {
        let mut sum = Sum::default();
        sum.add(&EXAMPLE);
        let checksum = sum.finish();
        sum.add(&checksum.to_be_bytes());
        assert_eq!(sum.finish(), 0);
    }
}
