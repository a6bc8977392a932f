//! The superblock's checksum: CRC-32C (RFC 3720, appendix B.4), as the kernel's `crc32c()` computes
//! it: it begins with ones, and is not inverted at the end.

use crate::format::{BLOCK, SUPERBLOCK};

/// The polynomial, its bits in reverse.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Where the checksum is: after the magic number.
const AT: usize = SUPERBLOCK + 4;

/// The CRC of `bytes`.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    })
}

/// What the checksum in the first block must be: that of all that follows the boot sector, with
/// zeros in the checksum's own place.
pub(crate) fn of(block: &[u8]) -> u32 {
    let bytes = block.iter().take(BLOCK).enumerate().skip(SUPERBLOCK);
    crc32c(bytes.map(|(at, byte)| if (AT..AT + 4).contains(&at) { 0 } else { *byte }))
}

/// Puts the right checksum into an image. For tests that change bytes of one.
#[doc(hidden)]
pub fn seal(image: &mut [u8]) {
    let sum = of(image).to_le_bytes();
    if let Some(place) = image.get_mut(AT..AT + 4) {
        place.copy_from_slice(&sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_rfc() {
        // RFC 3720, B.4: 32 bytes of zeros, and of ones; there it is inverted at the end.
        assert_eq!(!crc32c([0; 32].into_iter()), 0x8a91_36aa);
        assert_eq!(!crc32c([0xff; 32].into_iter()), 0x62a8_ab43);
    }
}
