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
pub(crate) fn is_bzimage(bytes: &[u8]) -> bool {
    bytes
        .get(MAGIC.0..)
        .is_some_and(|rest| rest.starts_with(MAGIC.1))
        && u16_at(bytes, VERSION.0).is_some_and(|version| version >= VERSION.1)
}

/// The kernel's release, the first word of its version string.
pub(crate) fn release(bytes: &[u8]) -> Option<String> {
    let at = usize::from(u16_at(bytes, VERSION_STRING)?).checked_add(0x200)?;
    let text = bytes
        .get(at..)?
        .split(|byte| matches!(byte, 0 | b' '))
        .next()?;
    let text = std::str::from_utf8(text.get(..text.len().min(64))?).ok()?;
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// Unpacks the ELF kernel.
pub(crate) fn unpack(image: &[u8]) -> Result<Vec<u8>, String> {
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
