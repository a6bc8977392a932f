//! Guest memory as a back end is told of it.

use std::sync::atomic::Ordering;

use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::Error;

/// The regions of guest memory. It holds on to the memory, so that the addresses and descriptors
/// in the table stay valid.
pub(super) struct MemoryTable {
    regions: Vec<VhostUserMemoryRegionInfo>,
    memory: GuestMemoryMmap,
}

impl MemoryTable {
    /// # Errors
    /// [`Error::Memory`] if a region is not backed by a file, which could not be shared.
    pub(super) fn new(memory: &GuestMemoryMmap) -> Result<Self, Error> {
        let regions = memory
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region)
            .collect::<Result<_, _>>()
            .map_err(Error::Memory)?;
        Ok(Self {
            regions,
            memory: memory.clone(),
        })
    }

    pub(super) fn regions(&self) -> &[VhostUserMemoryRegionInfo] {
        &self.regions
    }

    /// How far the used ring at this guest-physical address has come (virtio 1.2, section 2.7.8: the
    /// index follows 2 bytes of flags). Whatever it says, a back end must be able to begin there.
    pub(super) fn used_index(&self, ring: u64) -> Option<u16> {
        let at = GuestAddress(ring.checked_add(2)?);
        let index: u16 = self.memory.load(at, Ordering::Acquire).ok()?;
        Some(u16::from_le(index))
    }

    /// The address in this process of `len` bytes of RAM at a guest-physical address: vhost-user
    /// names rings so. `None` unless they lie within one region.
    pub(super) fn host_address(&self, address: u64, len: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.guest_phys_addr)?;
            let end = offset.checked_add(len)?;
            (end <= region.memory_size).then_some(())?;
            region.userspace_addr.checked_add(offset)
        })
    }
}
