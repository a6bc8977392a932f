//! The driver's half of a split virtqueue (virtio 1.2, section 2.7), and ways to abuse it.

use std::num::Wrapping;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::frontend::RingAddress;
use crate::{Error, Memory, memory};

/// VIRTQ_DESC_F_NEXT.
pub const F_NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub const F_WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub const F_INDIRECT: u16 = 4;

/// Descriptors in the indirect table that every head has.
const INDIRECT_SIZE: usize = 16;

const DESCRIPTOR_SIZE: u64 = 16;

/// A part of guest memory for a device to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// The device writes it; else it reads it.
    pub writable: bool,
}

impl Buffer {
    /// For the device to read.
    #[must_use]
    pub fn readable(address: u64, length: u32) -> Self {
        Self {
            address,
            length,
            writable: false,
        }
    }

    /// For the device to write.
    #[must_use]
    pub fn writable(address: u64, length: u32) -> Self {
        Self {
            address,
            length,
            writable: true,
        }
    }
}

/// `struct virtq_desc`, with any content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct Descriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A chain that the device gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// What [`Queue::add`] returned for it.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub written: u32,
}

/// A split virtqueue.
#[derive(Debug)]
pub struct Queue {
    memory: Arc<Memory>,
    size: u16,
    event_index: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    indirect: u64,
    free: Vec<u16>,
    /// The descriptors of each chain in flight, by head.
    chains: Vec<Vec<u16>>,
    next_available: Wrapping<u16>,
    kicked: Wrapping<u16>,
    next_used: Wrapping<u16>,
    kick: EventFd,
    call: EventFd,
    /// Kicks that reached the device.
    pub kicks: u64,
}

impl Queue {
    /// A queue of `size` entries, a power of two, with its rings in `memory`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::System`].
    pub fn new(memory: Arc<Memory>, size: u16, event_index: bool) -> Result<Self, Error> {
        let entries = usize::from(size);
        let event = || {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            EventFd::from_value_and_flags(0, flags).map_err(Error::system("eventfd"))
        };
        Ok(Self {
            descriptors: memory.allocate(entries * 16)?,
            available: memory.allocate(6 + entries * 2)?,
            used: memory.allocate(6 + entries * 8)?,
            indirect: memory.allocate(entries * INDIRECT_SIZE * 16)?,
            memory,
            size,
            event_index,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); entries],
            next_available: Wrapping(0),
            kicked: Wrapping(0),
            next_used: Wrapping(0),
            kick: event()?,
            call: event()?,
            kicks: 0,
        })
    }

    /// Makes the queue as it was when it was new, for a device that has stopped it.
    ///
    /// # Errors
    /// None with a ring of ours.
    pub fn reset(&mut self) -> Result<(), Error> {
        let entries = usize::from(self.size);
        self.memory
            .write(self.available, &vec![0; 6 + entries * 2])?;
        self.memory.write(self.used, &vec![0; 6 + entries * 8])?;
        self.free = (0..self.size).rev().collect();
        self.chains = vec![Vec::new(); entries];
        (self.next_available, self.kicked, self.next_used) = Default::default();
        self.drain_call();
        Ok(())
    }

    /// Where the rings are in this process, for SET_VRING_ADDR.
    #[must_use]
    pub fn address(&self) -> RingAddress {
        let shown = |address| address - memory::BASE + self.memory.user_address();
        RingAddress {
            descriptors: shown(self.descriptors),
            available: shown(self.available),
            used: shown(self.used),
        }
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// What the driver signals.
    #[must_use]
    pub fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    /// What the device signals.
    #[must_use]
    pub fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    /// Makes a chain of `buffers` available, one descriptor each; its head.
    ///
    /// # Errors
    /// [`Error::Full`] if there are not as many free descriptors, or no buffers.
    pub fn add(&mut self, buffers: &[Buffer]) -> Result<u16, Error> {
        if buffers.is_empty() || buffers.len() > self.free.len() {
            return Err(Error::Full);
        }
        let indexes = self.free.split_off(self.free.len() - buffers.len());
        for (at, buffer) in buffers.iter().enumerate() {
            let next = indexes.get(at + 1).copied();
            self.write_descriptor(indexes[at], describe(buffer, next))?;
        }
        let head = indexes[0];
        self.chains[usize::from(head)] = indexes;
        self.publish(head)?;
        Ok(head)
    }

    /// As [`Queue::add`], in the indirect table of a single descriptor; at most 16 buffers.
    ///
    /// # Errors
    /// As [`Queue::add`].
    pub fn add_indirect(&mut self, buffers: &[Buffer]) -> Result<u16, Error> {
        if buffers.is_empty() || buffers.len() > INDIRECT_SIZE {
            return Err(Error::Full);
        }
        let head = self.free.pop().ok_or(Error::Full)?;
        let table = self.indirect_table(head);
        for (at, buffer) in (0u16..).zip(buffers) {
            let next = (usize::from(at) + 1 < buffers.len()).then_some(at + 1);
            let address = table + u64::from(at) * DESCRIPTOR_SIZE;
            self.memory
                .write(address, &describe(buffer, next).encode())?;
        }
        let length = u32::try_from(buffers.len() * 16).map_err(|_| Error::Full)?;
        let descriptor = Descriptor {
            address: table,
            length,
            flags: F_INDIRECT,
            next: 0,
        };
        self.write_descriptor(head, descriptor)?;
        self.chains[usize::from(head)] = vec![head];
        self.publish(head)?;
        Ok(head)
    }

    /// The guest-physical address of the table that [`Queue::add_indirect`] uses for `head`.
    #[must_use]
    pub fn indirect_table(&self, head: u16) -> u64 {
        self.indirect + u64::from(head) * INDIRECT_SIZE as u64 * DESCRIPTOR_SIZE
    }

    /// Writes any descriptor of the table, whoever owns it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if `index` is far out of the table.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) -> Result<(), Error> {
        let address = self.descriptors + u64::from(index) * DESCRIPTOR_SIZE;
        self.memory.write(address, &descriptor.encode())
    }

    /// Puts any value into the available ring as a head.
    ///
    /// # Errors
    /// None with a ring of ours.
    pub fn publish(&mut self, head: u16) -> Result<(), Error> {
        let slot = u64::from(self.next_available.0 % self.size);
        self.memory.store(self.available + 4 + slot * 2, head)?;
        self.set_available_index((self.next_available + Wrapping(1)).0)
    }

    /// Sets the available index to anything.
    ///
    /// # Errors
    /// None with a ring of ours.
    pub fn set_available_index(&mut self, index: u16) -> Result<(), Error> {
        self.next_available = Wrapping(index);
        self.memory.store(self.available + 2, index)
    }

    /// Signals the device, if it wants to know of what was added since the last time.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn kick(&mut self) -> Result<(), Error> {
        let old = std::mem::replace(&mut self.kicked, self.next_available);
        let wanted = if self.event_index {
            // Section 2.7.7.1: the field behind the used ring's last entry.
            let field = self.used + 4 + u64::from(self.size) * 8;
            let event = Wrapping(self.memory.load(field)?);
            (self.next_available - event - Wrapping(1)) < (self.next_available - old)
        } else {
            self.memory.load(self.used)? & 1 == 0
        };
        if wanted { self.kick_anyway() } else { Ok(()) }
    }

    /// Signals the device.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn kick_anyway(&mut self) -> Result<(), Error> {
        self.kicks += 1;
        self.kick
            .write(1)
            .map_err(Error::system("write to the kick eventfd"))?;
        Ok(())
    }

    /// The next chain that the device gave back, if there is one now.
    ///
    /// # Errors
    /// [`Error::Head`] if the device gave back what it never got.
    pub fn used(&mut self) -> Result<Option<Used>, Error> {
        if self.device_index()? == self.next_used.0 {
            return Ok(None);
        }
        let slot = u64::from(self.next_used.0 % self.size);
        let mut bytes = [0; 8];
        self.memory.read(self.used + 4 + slot * 8, &mut bytes)?;
        self.next_used += 1;
        let [a, b, c, d, rest @ ..] = bytes;
        let id = u32::from_le_bytes([a, b, c, d]);
        let head = u16::try_from(id).map_err(|_| Error::Head(id))?;
        let chain = self
            .chains
            .get_mut(usize::from(head))
            .ok_or(Error::Head(id))?;
        if chain.is_empty() {
            return Err(Error::Head(id));
        }
        self.free.append(chain);
        let written = u32::from_le_bytes(rest);
        Ok(Some(Used { head, written }))
    }

    /// Lets [`Queue::used`] accept this head, which was made available by hand.
    pub fn expect_head(&mut self, head: u16) {
        self.free.retain(|free| *free != head);
        self.chains[usize::from(head)] = vec![head];
    }

    /// The available index.
    #[must_use]
    pub fn available_index(&self) -> u16 {
        self.next_available.0
    }

    /// The used index up to which chains have been taken back.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.next_used.0
    }

    /// The used index as the device has it: beyond [`Queue::used_index`] by the chains that wait to
    /// be taken back.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the ring is not in the memory, which it is.
    pub fn device_index(&self) -> Result<u16, Error> {
        self.memory.load(self.used + 2)
    }

    /// As [`Queue::used`], waiting for up to `patience`.
    ///
    /// # Errors
    /// [`Error::Timeout`], or as [`Queue::used`].
    pub fn wait(&mut self, patience: Duration) -> Result<Used, Error> {
        let until = Instant::now() + patience;
        loop {
            if let Some(used) = self.used()? {
                return Ok(used);
            }
            self.want_call()?;
            if let Some(used) = self.used()? {
                return Ok(used);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !await_readable(&[self.call.as_fd()], left)? {
                return self.used()?.ok_or(Error::Timeout);
            }
            self.drain_call();
        }
    }

    /// Asks the device to signal the next chain that it gives back.
    ///
    /// # Errors
    /// None with a ring of ours.
    pub fn want_call(&mut self) -> Result<(), Error> {
        if !self.event_index {
            return Ok(());
        }
        // Section 2.7.7.1: the field behind the available ring's last entry.
        let field = self.available + 4 + u64::from(self.size) * 2;
        self.memory.store(field, self.next_used.0)
    }

    /// Forgets signals of the device.
    pub fn drain_call(&self) {
        let _ = self.call.read();
    }
}

/// Waits until one of `fds` is readable; false if none was for `patience`.
///
/// # Errors
/// What `poll` says.
pub fn await_readable(fds: &[BorrowedFd<'_>], patience: Duration) -> Result<bool, Error> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    // Rounded up, so that the last fraction of a millisecond is not spent spinning.
    let millis = u16::try_from(patience.as_millis() + 1).unwrap_or(u16::MAX);
    match poll(&mut polled, PollTimeout::from(millis)) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(error) => Err(Error::system("poll")(error)),
    }
}

fn describe(buffer: &Buffer, next: Option<u16>) -> Descriptor {
    let write = if buffer.writable { F_WRITE } else { 0 };
    let more = if next.is_some() { F_NEXT } else { 0 };
    Descriptor {
        address: buffer.address,
        length: buffer.length,
        flags: write | more,
        next: next.unwrap_or(0),
    }
}
