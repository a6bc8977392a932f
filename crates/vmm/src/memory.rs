//! Guest memory: one memory file, which the devices map as well.

use std::{fs::File, io, sync::Arc};

use boot::Layout;
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::Error;

/// The memory of a machine, and the pieces that it consists of.
type Memory = (GuestMemoryMmap, Vec<Arc<GuestRegionMmap>>);

/// Makes the memory of a machine laid out as `layout` says.
pub(crate) fn create(layout: &Layout) -> Result<Memory, Error> {
    let size = layout.low.saturating_add(layout.high);
    let make = || {
        let file = Arc::new(sealed_file(size)?);
        let mut regions = Vec::new();
        let mut offset = 0u64;
        for (start, length) in layout.ranges() {
            regions.push(map(&file, offset, start, length)?);
            offset = offset.saturating_add(length);
        }
        let memory = GuestMemoryMmap::from_arc_regions(regions.clone());
        Ok((memory.map_err(io::Error::other)?, regions))
    };
    make().map_err(|source| Error::Memory {
        mib: size >> 20,
        source,
    })
}

/// A file that cannot shrink: a device that could cut it off under our mapping would end us with
/// SIGBUS.
fn sealed_file(size: u64) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create("guest-memory", flags)?);
    file.set_len(size)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

fn map(file: &Arc<File>, offset: u64, start: u64, length: u64) -> io::Result<Arc<GuestRegionMmap>> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let backing = FileOffset::from_arc(Arc::clone(file), offset);
    let mapping = MmapRegion::from_file(backing, length).map_err(io::Error::other)?;
    let region = GuestRegionMmap::new(mapping, GuestAddress(start));
    let region = region.ok_or_else(|| io::Error::other("it does not fit the address space"))?;
    Ok(Arc::new(region))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryRegion};

    use super::*;

    #[test]
    fn both_sides_of_the_hole_are_pieces_of_one_file() {
        let (memory, regions) = create(&Layout::new((3 << 30) + (64 << 20))).unwrap();
        assert_eq!(regions.len(), 2);
        assert_eq!(regions[1].file_offset().unwrap().start(), 3 << 30);
        memory.write_obj(7u32, GuestAddress(4 << 30)).unwrap();
        assert!(memory.write_obj(7u32, GuestAddress(3 << 30)).is_err());
    }

    #[test]
    fn the_file_can_neither_shrink_nor_grow() {
        let file = sealed_file(2 << 20).unwrap();
        assert!(file.set_len(1 << 20).is_err());
        assert!(file.set_len(4 << 20).is_err());
    }
}
