//! ELF kernels, read straight from the file into guest memory.

use std::{
    fs::File,
    io::{self, ErrorKind, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, ReadVolatile, VolatileMemoryError,
};

use crate::{Error, Layout, layout};

/// ELF-64, little-endian, x86-64 (ELF specification, figure 4-3).
const HEADER_LENGTH: usize = 64;
const PROGRAM_HEADER_LENGTH: usize = 56;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the PVH entry point (Xen, public/elfnote.h).
const NOTE_PHYS32_ENTRY: u32 = 18;
/// More program headers or longer notes than any kernel has.
const MAX_PROGRAM_HEADERS: u16 = 64;
const MAX_NOTES: u64 = 64 << 10;

/// A kernel in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// The physical address of the PVH entry point.
    pub(crate) entry: u32,
    /// The end of what was loaded.
    pub(crate) end: u64,
}

/// One program header.
#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

/// Loads `file` where its program headers say.
pub(crate) fn load(
    file: &File,
    memory: &GuestMemoryMmap,
    layout: &Layout,
) -> Result<Kernel, Error> {
    let segments = segments(file)?;
    let entry = entry(file, &segments)?;
    let mut loaded: Vec<&Segment> = segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .collect();
    loaded.sort_by_key(|segment| segment.address);
    let mut end = 0;
    for segment in &loaded {
        if segment.address < end {
            return Err(Error::Kernel("its segments overlap"));
        }
        end = load_segment(file, segment, memory, layout)?;
    }
    if end == 0 {
        return Err(Error::Kernel("it has nothing to load"));
    }
    if !loaded.iter().any(|segment| segment.contains(entry.into())) {
        return Err(Error::Kernel("its PVH entry point is not in a segment"));
    }
    Ok(Kernel { entry, end })
}

impl Segment {
    /// Whether the byte at a guest address comes from the file.
    fn contains(&self, address: u64) -> bool {
        address
            .checked_sub(self.address)
            .is_some_and(|offset| offset < self.file_size)
    }
}

fn segments(file: &File) -> Result<Vec<Segment>, Error> {
    let header: [u8; HEADER_LENGTH] = read(file, 0)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(Error::Kernel("it is no 64-bit ELF file"));
    }
    if u16_at(&header, 18) != Some(MACHINE_X86_64) {
        return Err(Error::Kernel("it is for another CPU than x86-64"));
    }
    let malformed = Error::Kernel("its ELF header makes no sense");
    let (Some(offset), Some(size), Some(count)) = (
        u64_at(&header, 32),
        u16_at(&header, 54),
        u16_at(&header, 56),
    ) else {
        return Err(malformed);
    };
    if usize::from(size) != PROGRAM_HEADER_LENGTH || count > MAX_PROGRAM_HEADERS {
        return Err(malformed);
    }
    let offsets = (0..u64::from(count)).map(|index| {
        let skipped = index.checked_mul(size.into())?;
        offset.checked_add(skipped)
    });
    offsets
        .map(|offset| {
            let header: [u8; PROGRAM_HEADER_LENGTH] = read(
                file,
                offset.ok_or(Error::Kernel("its program headers are out of range"))?,
            )?;
            segment(&header).ok_or(Error::Kernel("a program header makes no sense"))
        })
        .collect()
}

fn segment(header: &[u8]) -> Option<Segment> {
    Some(Segment {
        kind: u32_at(header, 0)?,
        offset: u64_at(header, 8)?,
        address: u64_at(header, 24)?,
        file_size: u64_at(header, 32)?,
        memory_size: u64_at(header, 40)?,
    })
}

/// Reads a segment into memory and returns its end. What the file does not have is zero already:
/// the memory is new.
fn load_segment(
    file: &File,
    segment: &Segment,
    memory: &GuestMemoryMmap,
    layout: &Layout,
) -> Result<u64, Error> {
    let end = segment.address.checked_add(segment.memory_size);
    let end = end.ok_or(Error::Kernel("a segment is out of range"))?;
    if segment.file_size > segment.memory_size {
        return Err(Error::Kernel(
            "a segment is longer in the file than in memory",
        ));
    }
    if segment.address < layout::HIGH_START {
        return Err(Error::Kernel("a segment is below 1 MiB"));
    }
    if end > layout.low {
        return Err(Error::TooSmall {
            what: "the kernel",
            needed: end.div_ceil(1 << 20),
        });
    }
    read_into(
        file,
        segment.offset,
        memory,
        segment.address,
        segment.file_size,
    )
    .map_err(short)?;
    Ok(end)
}

/// Reads a piece of `file` straight into guest memory. A file that ends early is
/// [`ErrorKind::UnexpectedEof`].
pub(crate) fn read_into(
    file: &File,
    from: u64,
    memory: &GuestMemoryMmap,
    to: u64,
    length: u64,
) -> io::Result<()> {
    let mut file = file;
    file.seek(SeekFrom::Start(from))?;
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let slices = memory.get_slices(GuestAddress(to), length, Permissions::Write);
    for slice in slices.map_err(io::Error::other)? {
        file.read_exact_volatile(&mut slice.map_err(io::Error::other)?)
            .map_err(|error| match error {
                VolatileMemoryError::IOError(source) => source,
                other => io::Error::other(other),
            })?;
    }
    Ok(())
}

/// The PVH entry point, from the kernel's notes.
fn entry(file: &File, segments: &[Segment]) -> Result<u32, Error> {
    for segment in segments.iter().filter(|segment| segment.kind == PT_NOTE) {
        if segment.file_size > MAX_NOTES {
            return Err(Error::Kernel("its notes are too long"));
        }
        let length = usize::try_from(segment.file_size).unwrap_or_default();
        let mut notes = vec![0; length];
        file.read_exact_at(&mut notes, segment.offset)
            .map_err(short)?;
        if let Some(entry) = find_entry(&notes) {
            return Ok(entry);
        }
    }
    Err(Error::Kernel(
        "it has no PVH entry point; it must be built with CONFIG_PVH",
    ))
}

/// Walks notes: name length, descriptor length and type, then name and descriptor, each padded to
/// 4 bytes.
fn find_entry(mut notes: &[u8]) -> Option<u32> {
    loop {
        let name_length = padded(u32_at(notes, 0)?)?;
        let length = u32_at(notes, 4)?;
        let kind = u32_at(notes, 8)?;
        let name = notes.get(12..)?.get(..name_length)?;
        let descriptor = notes.get(12..)?.get(name_length..)?;
        if kind == NOTE_PHYS32_ENTRY && name.starts_with(b"Xen\0") && length >= 4 {
            return u32_at(descriptor, 0);
        }
        notes = descriptor.get(padded(length)?..)?;
    }
}

fn padded(length: u32) -> Option<usize> {
    usize::try_from(length.checked_next_multiple_of(4)?).ok()
}

fn read<const N: usize>(file: &File, offset: u64) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).map_err(short)?;
    Ok(bytes)
}

fn short(error: io::Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof {
        Error::Kernel("the file is truncated")
    } else {
        Error::Read(error)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use vm_memory::Bytes;

    use super::*;

    const ADDRESS: u64 = 1 << 20;

    /// A kernel of one segment and one note.
    fn kernel(code: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&MACHINE_X86_64.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&2u16.to_le_bytes());
        let note = 64 + 2 * 56;
        let text = note + 20;
        let length = code.len() as u64;
        for (kind, offset, file_size, memory_size) in [
            (PT_NOTE, note, 20, 20),
            (PT_LOAD, text, length, length + 4096),
        ] {
            file.extend(kind.to_le_bytes());
            file.extend(0u32.to_le_bytes());
            for value in [offset, 0, ADDRESS, file_size, memory_size, 0] {
                file.extend(value.to_le_bytes());
            }
        }
        for value in [4, 4, NOTE_PHYS32_ENTRY] {
            file.extend(value.to_le_bytes());
        }
        file.extend(b"Xen\0");
        file.extend(0x10_0004u32.to_le_bytes());
        file.extend(code);
        file
    }

    fn load_bytes(bytes: &[u8], memory_size: u64) -> Result<(Kernel, GuestMemoryMmap), Error> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let size = usize::try_from(memory_size).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
        load(&file, &memory, &Layout::new(memory_size)).map(|kernel| (kernel, memory))
    }

    #[test]
    fn a_kernel_is_loaded_where_it_says() {
        let (kernel, memory) = load_bytes(&kernel(b"the code"), 4 << 20).unwrap();
        assert_eq!((kernel.entry, kernel.end), (0x10_0004, ADDRESS + 8 + 4096));
        let mut code = [0; 8];
        memory.read_slice(&mut code, GuestAddress(ADDRESS)).unwrap();
        assert_eq!(&code, b"the code");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = kernel(b"the code");
        for length in 0..whole.len() {
            let error = load_bytes(&whole[..length], 4 << 20).unwrap_err();
            assert!(matches!(error, Error::Kernel(_)), "{length}: {error}");
        }
    }

    #[test]
    fn segments_that_overlap_are_refused() {
        let mut bytes = kernel(b"the code");
        // New headers at the end of the file: the note, a second segment in the zeros behind the
        // first one's code, and the first.
        let mut second = bytes[64 + 56..64 + 2 * 56].to_vec();
        second[24..32].copy_from_slice(&(ADDRESS + 16).to_le_bytes());
        let notes = bytes[64..64 + 56].to_vec();
        bytes.extend(notes);
        bytes.extend(&second);
        let (at, headers) = (bytes.len() - 2 * 56, 3u16);
        bytes.extend(bytes[64 + 56..64 + 2 * 56].to_vec());
        bytes[32..40].copy_from_slice(&(at as u64).to_le_bytes());
        bytes[56..58].copy_from_slice(&headers.to_le_bytes());
        let error = load_bytes(&bytes, 4 << 20).unwrap_err().to_string();
        assert!(error.contains("overlap"), "{error}");
    }

    #[test]
    fn an_entry_point_outside_of_the_code_is_refused() {
        for entry in [0u32, 0x10_0008, u32::MAX] {
            let mut bytes = kernel(b"the code");
            let note = 64 + 2 * 56 + 16;
            bytes[note..note + 4].copy_from_slice(&entry.to_le_bytes());
            let error = load_bytes(&bytes, 4 << 20).unwrap_err().to_string();
            assert!(error.contains("entry point"), "{entry:#x}: {error}");
        }
    }

    #[test]
    fn a_kernel_that_does_not_fit_says_what_would() {
        let error = load_bytes(&kernel(&[0; 4096]), 1 << 20)
            .unwrap_err()
            .to_string();
        assert!(error.contains("2 MiB"), "{error}");
    }

    #[test]
    fn a_kernel_without_a_pvh_entry_says_so() {
        let mut bytes = kernel(b"x");
        let name = bytes
            .windows(4)
            .position(|window| window == b"Xen\0")
            .unwrap();
        bytes[name] = b'Y';
        let error = load_bytes(&bytes, 4 << 20).unwrap_err().to_string();
        assert!(error.contains("CONFIG_PVH"), "{error}");
    }

    proptest! {
        #[test]
        fn no_changed_byte_makes_it_panic(at in 0usize..196, value in any::<u8>()) {
            let mut bytes = kernel(b"the code");
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let _ = load_bytes(&bytes, 4 << 20);
        }

        #[test]
        fn arbitrary_notes_end(notes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = find_entry(&notes);
        }
    }
}
