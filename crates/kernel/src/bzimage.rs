//! The ELF kernel inside an x86 bzImage (kernel documentation, arch/x86/boot).

use std::io::Read;

/// The setup header's magic number, `HdrS`, and where it is.
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// The first protocol version (2.08) whose header says where the payload is.
const VERSION: (usize, u16) = (0x206, 0x208);
const SETUP_SECTORS: usize = 0x1f1;
const VERSION_STRING: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// A kernel larger than this is a bomb, not a kernel.
const LIMIT: u64 = 1 << 30;

/// Whether these are the first bytes (at least 0x250) of a bzImage.
#[must_use]
pub fn is_bzimage(bytes: &[u8]) -> bool {
    bytes
        .get(MAGIC.0..)
        .is_some_and(|rest| rest.starts_with(MAGIC.1))
        && u16_at(bytes, VERSION.0).is_some_and(|version| version >= VERSION.1)
}

/// The kernel's release, the first word of its version string.
#[must_use]
pub fn release(bytes: &[u8]) -> Option<String> {
    let at = usize::from(u16_at(bytes, VERSION_STRING)?).checked_add(0x200)?;
    let text = bytes
        .get(at..)?
        .split(|byte| matches!(byte, 0 | b' '))
        .next()?;
    let text = std::str::from_utf8(text.get(..text.len().min(64))?).ok()?;
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// Unpacks the ELF kernel.
///
/// # Errors
/// What is wrong with the header or the payload, in words.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>, String> {
    let payload = payload(image).ok_or("its setup header does not describe its payload")?;
    let kernel = match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4_legacy(payload)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd(payload)?,
        [0x7f, b'E', b'L', b'F', ..] => payload.to_vec(),
        [a, b, c, d, ..] => {
            return Err(format!(
                "its compression ({a:02x} {b:02x} {c:02x} {d:02x}) is neither lz4 nor zstd; \
                 unpack it with the kernel's scripts/extract-vmlinux"
            ));
        }
        _ => return Err("its payload is empty".into()),
    };
    if kernel.starts_with(b"\x7fELF") {
        Ok(kernel)
    } else {
        Err("its payload is not an ELF file".into())
    }
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    // A count of zero means four, for the sake of very old kernels.
    let sectors = match *image.get(SETUP_SECTORS)? {
        0 => 4,
        count => usize::from(count),
    };
    let protected_mode = sectors.checked_add(1)?.checked_mul(512)?;
    let offset = usize::try_from(u32_at(image, PAYLOAD_OFFSET)?).ok()?;
    let length = usize::try_from(u32_at(image, PAYLOAD_LENGTH)?).ok()?;
    let start = protected_mode.checked_add(offset)?;
    image.get(start..start.checked_add(length)?)
}

/// Blocks of up to 8 MiB of content, each after its compressed length; the kernel's build appends
/// the length of the whole.
fn lz4_legacy(payload: &[u8]) -> Result<Vec<u8>, String> {
    const BLOCK: usize = 8 << 20;
    let mut rest = payload.get(4..).unwrap_or_default();
    let mut kernel = Vec::new();
    let mut block = vec![0; BLOCK];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        if tail.is_empty() {
            break;
        }
        let Some((data, tail)) = usize::try_from(length)
            .ok()
            .and_then(|l| tail.split_at_checked(l))
        else {
            return Err("an lz4 block ends beyond the payload".into());
        };
        let size = lz4_flex::block::decompress_into(data, &mut block)
            .map_err(|error| format!("an lz4 block is corrupt: {error}"))?;
        kernel.extend_from_slice(block.get(..size).unwrap_or_default());
        if kernel.len() as u64 > LIMIT {
            return Err("it unpacks to more than 1 GiB".into());
        }
        rest = tail;
    }
    Ok(kernel)
}

fn zstd(payload: &[u8]) -> Result<Vec<u8>, String> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(payload)
        .map_err(|error| format!("its zstd frame is corrupt: {error}"))?;
    let mut kernel = Vec::new();
    decoder
        .take(LIMIT)
        .read_to_end(&mut kernel)
        .map_err(|error| format!("its zstd frame is corrupt: {error}"))?;
    Ok(kernel)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u32::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An image with one setup sector, this payload, and the version string at 0x200 + 0x100.
    pub(crate) fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[SETUP_SECTORS] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"6.1.0-x (ann@b)\0");
        let length = u32::try_from(payload.len()).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn elf() -> Vec<u8> {
        [b"\x7fELF".as_slice(), &[42; 100_000]].concat()
    }

    /// As the kernel's build does it: blocks of 8 MiB, then the length of the whole.
    fn lz4(content: &[u8]) -> Vec<u8> {
        let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
        for block in content.chunks(8 << 20) {
            let block = lz4_flex::block::compress(block);
            payload.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
            payload.extend_from_slice(&block);
        }
        payload.extend_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
        payload
    }

    #[test]
    fn an_lz4_payload_of_several_blocks_is_unpacked() {
        let content = [elf(), vec![7; 20 << 20]].concat();
        assert!(unpack(&image(&lz4(&content))).unwrap() == content);
    }

    #[test]
    fn an_uncompressed_payload_is_taken_as_it_is() {
        assert_eq!(unpack(&image(&elf())).unwrap(), elf());
    }

    #[test]
    fn a_zstd_payload_is_unpacked() {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let payload = ruzstd::encoding::compress_to_vec(&*elf(), level);
        assert_eq!(unpack(&image(&payload)).unwrap(), elf());
    }

    #[test]
    fn a_truncated_image_is_refused_wherever_it_ends() {
        let whole = image(&lz4(&elf()));
        for end in 0..whole.len() - 4 {
            unpack(&whole[..end]).unwrap_err();
        }
    }

    #[test]
    fn an_unknown_compression_or_a_payload_that_is_no_elf_is_refused() {
        let text = unpack(&image(b"\x1f\x8b\x08\x00")).unwrap_err();
        assert!(text.contains("1f 8b 08 00"), "{text}");
        unpack(&image(&lz4(b"no elf"))).unwrap_err();
        unpack(&image(b"")).unwrap_err();
    }

    #[test]
    fn the_release_is_the_first_word_of_the_version() {
        assert_eq!(release(&image(&elf())).unwrap(), "6.1.0-x");
        assert!(is_bzimage(&image(&elf())));
        assert!(!is_bzimage(&elf()));
    }

    proptest! {
        #[test]
        fn arbitrary_headers_and_payloads_never_panic(
            header in proptest::collection::vec(any::<u8>(), 0x1f0..0x260),
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = unpack(&header);
            let _ = release(&header);
            let magic = [&[0x02, 0x21, 0x4c, 0x18], payload.as_slice()].concat();
            let _ = unpack(&image(&magic));
        }
    }
}
