//! The initramfs: archives one after the other (Documentation/driver-api/early-userspace/
//! buffer-format.rst), as high as the kernel can take them.

use std::fs::File;

use vm_memory::GuestMemoryMmap;

use crate::{Error, Layout, elf};

const PAGE: u64 = 4096;
/// Archives begin at multiples of this, with zeros before them.
const ALIGNMENT: u64 = 4;

/// An initramfs in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Initramfs {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// Loads `archives` at the end of low memory; none if there are none.
pub(crate) fn load(
    archives: &[File],
    memory: &GuestMemoryMmap,
    layout: &Layout,
    kernel_end: u64,
) -> Result<Option<Initramfs>, Error> {
    let mut length = 0u64;
    let mut placed = Vec::with_capacity(archives.len());
    for archive in archives {
        let size = archive.metadata().map_err(Error::Initramfs)?.len();
        placed.push((archive, length, size));
        let end = length.checked_add(size);
        length = end
            .and_then(|end| end.checked_next_multiple_of(ALIGNMENT))
            .ok_or_else(|| too_small(kernel_end, u64::MAX))?;
    }
    if length == 0 {
        return Ok(None);
    }
    let start = layout
        .low
        .checked_sub(length)
        .map(|start| start & !(PAGE - 1));
    let start = start
        .filter(|start| *start >= kernel_end)
        .ok_or_else(|| too_small(kernel_end, length))?;
    for (archive, offset, size) in placed {
        elf::read_into(archive, 0, memory, start.saturating_add(offset), size)
            .map_err(Error::Initramfs)?;
    }
    Ok(Some(Initramfs { start, length }))
}

fn too_small(kernel_end: u64, length: u64) -> Error {
    let needed = kernel_end.saturating_add(length).saturating_add(PAGE);
    Error::TooSmall {
        what: "the initramfs",
        needed: needed.div_ceil(1 << 20),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn archives_follow_each_other_at_the_end_of_memory() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let layout = Layout::new(1 << 20);
        let archives = [file(b"first"), file(b"second")];
        let loaded = load(&archives, &memory, &layout, 0).unwrap().unwrap();
        assert_eq!(loaded.length, 8 + 8);
        let mut bytes = [0; 14];
        memory
            .read_slice(&mut bytes, GuestAddress(loaded.start))
            .unwrap();
        assert_eq!(&bytes, b"first\0\0\0second");
    }

    #[test]
    fn an_archive_that_cannot_be_read_is_not_blamed_on_the_kernel() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().set_len(4096).unwrap();
        let write_only = File::options().write(true).open(named.path()).unwrap();
        let error = load(&[write_only], &memory, &Layout::new(1 << 20), 0).unwrap_err();
        assert!(matches!(error, Error::Initramfs(_)), "{error}");
    }

    #[test]
    fn none_is_none_and_too_much_is_an_error() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let layout = Layout::new(1 << 20);
        assert_eq!(load(&[], &memory, &layout, 0).unwrap(), None);
        let archives = [file(&[0; 4096])];
        let error = load(&archives, &memory, &layout, (1 << 20) - 100).unwrap_err();
        assert!(matches!(error, Error::TooSmall { .. }));
    }
}
