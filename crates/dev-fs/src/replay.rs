//! The first request of a session, told to a process that did not see it.
//!
//! virtiofsd takes requests from a guest's queue only, so there is one, with memory of its own.

use std::io;

use nix::errno::Errno;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::FileSystem;
use virtiofsd::fuse::OutHeader;
use virtiofsd::server::Server;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::device::Mapped;

/// Where things are: descriptors, both rings, the request and its answer.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x100;
const USED: u64 = 0x200;
const REQUEST: u64 = 0x400;
const ANSWER: u64 = 0x800;
const ANSWER_SIZE: u32 = 0x400;
const SIZE: usize = 0x1000;

/// VIRTQ_DESC_F_NEXT and VIRTQ_DESC_F_WRITE (virtio 1.2, section 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Tells `server` of a `FUSE_INIT` that the guest has the answer to.
///
/// # Errors
/// What the server says to it.
pub(crate) fn replay<F: FileSystem + Sync>(server: &Server<F>, request: &[u8]) -> io::Result<()> {
    let memory: Mapped =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), SIZE)]).map_err(io::Error::other)?;
    let length = u32::try_from(request.len()).map_err(io::Error::other)?;
    let put = |address, bytes: &[u8]| {
        let put = memory.write_slice(bytes, GuestAddress(address));
        put.map_err(io::Error::other)
    };
    put(REQUEST, request)?;
    put(DESCRIPTORS, &descriptor(REQUEST, length, NEXT, 1))?;
    put(DESCRIPTORS + 16, &descriptor(ANSWER, ANSWER_SIZE, WRITE, 0))?;
    // struct virtq_avail: no flags, an index of 1, the first head.
    put(AVAILABLE, &[0, 0, 1, 0, 0, 0])?;
    let mut queue = Queue::new(4).map_err(io::Error::other)?;
    let address = |at: u64| (u32::try_from(at).ok(), Some(0));
    let ((descriptors, high), (available, _), (used, _)) =
        (address(DESCRIPTORS), address(AVAILABLE), address(USED));
    queue.set_desc_table_address(descriptors, high);
    queue.set_avail_ring_address(available, high);
    queue.set_used_ring_address(used, high);
    queue.set_ready(true);
    let chain = queue.iter(&memory).map_err(io::Error::other)?.next();
    let chain = chain.ok_or(io::ErrorKind::InvalidData)?;
    let reader = Reader::new(&memory, chain.clone()).map_err(io::Error::other)?;
    let writer = Writer::new(&memory, chain).map_err(io::Error::other)?;
    let handled = server.handle_message(reader, writer, None::<&mut ()>);
    handled.map_err(io::Error::other)?;
    let answer: OutHeader = memory
        .read_obj(GuestAddress(ANSWER))
        .map_err(io::Error::other)?;
    match answer.error {
        0 => Ok(()),
        error => Err(Errno::from_raw(error.saturating_neg()).into()),
    }
}

/// `struct virtq_desc` (virtio 1.2, section 2.7.5).
fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Vec<u8> {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bytes
}
