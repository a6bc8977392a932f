//! One virtqueue as a device sees it: chains in, chains out, notifications kept in one place.

use std::io;
use std::num::Wrapping;
use std::sync::MutexGuard;
use std::sync::atomic::{Ordering, fence};

use vhost_user_backend::VringState;
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap, Permissions,
};

use super::buffers::Buffers;
use super::holes;

/// The guest's memory for the length of one call to the device.
pub type Memory = GuestMemoryLoadGuard<GuestMemoryMmap<()>>;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2, section 2.7.6).
const NO_INTERRUPT: u16 = 1;

fn store(memory: &Memory, ring: u64, offset: u64, bytes: &[u8]) -> bool {
    let address = ring.checked_add(offset).map(GuestAddress);
    address.is_some_and(|address| memory.write_slice(bytes, address).is_ok())
}

fn load(memory: &Memory, ring: u64, offset: u64) -> Option<u16> {
    let address = ring.checked_add(offset).map(GuestAddress)?;
    memory
        .load(address, Ordering::Relaxed)
        .map(u16::from_le)
        .ok()
}

/// What the run-time remembers of a queue between calls.
#[derive(Debug, Default)]
pub(super) struct QueueState {
    /// The driver has been asked to kick, and nothing has been taken since.
    waiting: bool,
    /// The driver put nonsense into the ring; the queue rests until it is set up anew.
    broken: bool,
    /// Chains that were returned since the driver was last told; more than a ring has count as
    /// that many.
    returned: u16,
}

/// A chain of descriptors that the driver made available.
pub struct Chain {
    inner: DescriptorChain<Memory>,
}

impl Chain {
    /// The device-readable part, in the layout that the driver chose (virtio 1.2, section 2.7.4).
    /// `None` if a descriptor is outside of guest memory.
    #[must_use]
    pub fn reader<'a>(&self, memory: &'a Memory) -> Option<Reader<'a>> {
        Reader::new(&**memory, self.inner.clone()).ok()
    }

    /// The device-readable part as pieces of memory; as [`Chain::reader`].
    #[must_use]
    pub fn readable<'a>(&self, memory: &'a Memory) -> Option<Buffers<'a>> {
        Buffers::collect(memory, self.inner.clone().readable(), Permissions::Read)
    }

    /// The device-writable part as pieces of memory; as [`Chain::reader`].
    #[must_use]
    pub fn writable<'a>(&self, memory: &'a Memory) -> Option<Buffers<'a>> {
        Buffers::collect(memory, self.inner.clone().writable(), Permissions::Write)
    }

    /// Gives the memory of the device-writable part back to the host: it reads as zeros from now on.
    /// Pages count as a whole only where all of them is in it.
    ///
    /// # Errors
    /// If a descriptor is outside of guest memory, or what the kernel says; those before it are gone.
    pub fn discard(&self, memory: &Memory) -> io::Result<()> {
        let mut parts = self.inner.clone().writable();
        parts.try_for_each(|part| holes::punch(memory, &part))
    }

    /// The device-writable part; as [`Chain::reader`].
    #[must_use]
    pub fn writer<'a>(&self, memory: &'a Memory) -> Option<Writer<'a>> {
        Writer::new(&**memory, self.inner.clone()).ok()
    }
}

/// One virtqueue, held for the length of one call to the device.
pub struct Queue<'a> {
    vring: MutexGuard<'a, VringState<GuestMemoryAtomic<GuestMemoryMmap<()>>>>,
    memory: Memory,
    state: &'a mut QueueState,
}

impl<'a> Queue<'a> {
    pub(super) fn new(
        vring: MutexGuard<'a, VringState<GuestMemoryAtomic<GuestMemoryMmap<()>>>>,
        memory: Memory,
        state: &'a mut QueueState,
    ) -> Self {
        Self {
            vring,
            memory,
            state,
        }
    }

    /// Guest memory, as of this call.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.memory.clone()
    }

    /// Whether the driver has started this queue and chains may be taken from it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.is_ready() && !self.state.broken
    }

    /// How many chains were given back since the driver began the queue, modulo 2^16: the used
    /// ring's index (virtio 1.2, section 2.7.8), which the driver sees at the same time.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.vring.get_queue().next_used()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.vring.is_enabled() && self.vring.get_queue().ready()
    }

    /// The next chain. When there is none the driver is asked to kick once there is, so that a
    /// device that stops at `None` is called again. A ring with nonsense in it yields `None` for
    /// good (virtio 1.2, section 2.1.1: the device needs a reset).
    pub fn pop(&mut self) -> Option<Chain> {
        if !self.is_live() {
            return None;
        }
        if let Some(inner) = self.take() {
            return Some(Chain { inner });
        }
        self.state.waiting = true;
        match self.vring.enable_notification() {
            Ok(false) => None,
            // Something arrived between looking and asking: look again.
            Ok(true) => self.take().map(|inner| Chain { inner }).or_else(|| {
                self.break_off("its available ring or a head in it is out of range");
                None
            }),
            Err(_) => {
                self.break_off("it lies outside of guest memory");
                None
            }
        }
    }

    fn take(&mut self) -> Option<DescriptorChain<Memory>> {
        let memory = self.memory.clone();
        let chain = self.vring.get_queue_mut().pop_descriptor_chain(memory)?;
        if std::mem::take(&mut self.state.waiting) && self.vring.disable_notification().is_err() {
            self.break_off("it lies outside of guest memory");
            return None;
        }
        Some(chain)
    }

    fn break_off(&mut self, why: &str) {
        self.state.broken = true;
        crate::report(&format!(
            "a queue is ignored until the driver resets it: {why}"
        ));
    }

    /// Gives a chain back, with `written` bytes of its writable part filled.
    pub fn push(&mut self, chain: &Chain, written: u32) {
        self.push_all([(chain, written)]);
    }

    /// As [`Queue::push`], for chains that the driver may only see together.
    pub fn push_all<'c>(&mut self, chains: impl IntoIterator<Item = (&'c Chain, u32)>) {
        let queue = self.vring.get_queue();
        let (ring, size) = (queue.used_ring(), queue.size());
        let mut index = Wrapping(queue.next_used());
        let mut fine = true;
        for (chain, written) in chains {
            let slot = u64::from(index.0.checked_rem(size).unwrap_or(0));
            // struct virtq_used (virtio 1.2, section 2.7.8): two fields of 16 bits, then elements
            // of two fields of 32.
            let offset = slot.saturating_mul(8).saturating_add(4);
            let head = u32::from(chain.inner.head_index());
            let element = (u64::from(written) << 32) | u64::from(head);
            // The driver made this head available, whatever its number.
            fine &= head < u32::from(size);
            fine &= store(&self.memory, ring, offset, &element.to_le_bytes());
            index += 1;
            self.state.returned = self.state.returned.saturating_add(1);
        }
        if !fine {
            self.break_off("a head in it is out of range, or its used ring is");
            return;
        }
        self.vring.get_queue_mut().set_next_used(index.0);
        let address = GuestAddress(ring.saturating_add(2));
        let published = self
            .memory
            .store(index.0.to_le(), address, Ordering::Release);
        if published.is_err() {
            self.break_off("its used ring cannot be written");
        }
    }

    /// Puts the chain that was popped last back, as if it had never been taken. May be called
    /// again for the one before it, but not past a [`Queue::push`].
    pub fn unpop(&mut self) {
        self.vring.get_queue_mut().go_to_previous_position();
    }

    /// Tells the driver about returned chains, if there are any and it wants to know.
    pub fn notify(&mut self) {
        let returned = std::mem::take(&mut self.state.returned);
        if returned > 0
            && self.is_awaited(returned)
            && let Err(error) = self.vring.signal_used_queue()
        {
            crate::report(&format!("cannot signal the driver: {error}"));
        }
    }

    /// Whether the driver wants to know of the `returned` chains that were returned last (virtio
    /// 1.2, sections 2.7.7.1 and 2.7.10); true if its ring does not tell.
    fn is_awaited(&self, returned: u16) -> bool {
        // Between the store of the used index and the load of what the driver said about it.
        fence(Ordering::SeqCst);
        let queue = self.vring.get_queue();
        let ring = queue.avail_ring();
        if !queue.event_idx_enabled() {
            return load(&self.memory, ring, 0).is_none_or(|flags| flags & NO_INTERRUPT == 0);
        }
        // used_event, behind the two fields and the elements of struct virtq_avail.
        let offset = u64::from(queue.size()).saturating_mul(2).saturating_add(4);
        load(&self.memory, ring, offset).is_none_or(|event| {
            let behind = Wrapping(queue.next_used()) - Wrapping(event) - Wrapping(1);
            behind < Wrapping(returned)
        })
    }

    /// Forgets what was known of an earlier life of the queue; true if the driver began it anew.
    pub(super) fn restart(&mut self) -> bool {
        *self.state = QueueState::default();
        self.vring.get_queue().next_avail() == 0
    }
}
