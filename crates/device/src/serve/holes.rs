//! Guest memory that goes back to the host.

use std::io;

use nix::fcntl::{FallocateFlags, fallocate};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::queue::Memory;

/// Gives the memory that `descriptor` names back to the host: it reads as zeros from now on, and takes
/// memory where it is touched again.
pub(super) fn punch(memory: &Memory, descriptor: &Descriptor) -> io::Result<()> {
    let (address, length) = (descriptor.addr(), u64::from(descriptor.len()));
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let region = memory.find_region(address).ok_or_else(outside)?;
    let within = address
        .checked_offset_from(region.start_addr())
        .ok_or_else(outside)?;
    let end = within.checked_add(length).ok_or_else(outside)?;
    if end > region.len() {
        return Err(outside());
    }
    // It is a file that the front end has sent.
    let file = region.file_offset().ok_or_else(outside)?;
    let start = file.start().checked_add(within).ok_or_else(outside)?;
    let signed = |number: u64| i64::try_from(number).map_err(|_| outside());
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(
        file.file(),
        flags,
        signed(start)?,
        signed(length)?,
    )?)
}
