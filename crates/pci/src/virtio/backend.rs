//! What the transport needs of a virtio device.

use std::fmt;

/// A queue that the driver has set up, checked: the size is a power of two and at most the
/// queue's largest, each ring is aligned and lies in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSetup {
    /// Which queue of the device.
    pub index: u16,
    /// How many descriptors.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring (the driver area).
    pub available: u64,
    /// Guest-physical address of the used ring (the device area).
    pub used: u64,
    /// The MSI-X vector that the queue's interrupts use; none: the driver polls.
    pub vector: Option<u16>,
}

/// What a device starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// The enabled queues, in the order of their indices.
    pub queues: Vec<QueueSetup>,
    /// Guest-physical address of the notification of queue 0; queue `n` is
    /// [`super::NOTIFY_MULTIPLIER`] times `n` above. `None` while the guest decodes no memory.
    pub notify: Option<u64>,
}

/// The device behind the transport failed. The guest sees `DEVICE_NEEDS_RESET`; why it failed is
/// for the device to report where people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendError;

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device failed")
    }
}

impl std::error::Error for BackendError {}

/// A virtio device, as the transport drives it. All calls come from vCPU threads, one at a time.
pub trait VirtioBackend: Send {
    /// The features that the device offers (virtio 1.2, section 6). May wait for the device, but
    /// not for ever. 0, `VIRTIO_F_VERSION_1` included, makes every driver give up.
    fn features(&mut self) -> u64;

    /// The driver has chosen these, a subset of what was offered. `false` refuses the choice.
    /// Between resets, called again only after a refusal.
    fn accept(&mut self, features: u64) -> bool;

    /// The driver is ready (`DRIVER_OK`). Called at most once between resets.
    ///
    /// # Errors
    /// If the device cannot start; the guest is told that it needs a reset.
    fn activate(&mut self, activation: &Activation) -> Result<(), BackendError>;

    /// Notifications have moved while the device is active: the guest moved the BAR, or switched
    /// its decoding off (`None`).
    fn move_notify(&mut self, address: Option<u64>);

    /// The driver gave a queue of an active device another interrupt vector.
    fn set_vector(&mut self, queue: u16, vector: Option<u16>);

    /// A notification that came as an access and not by the way around the transport.
    fn notify(&mut self, queue: u16);

    /// Fills `data` from the device's config space. `data` is zero; what is no field stays so.
    fn read_config(&mut self, offset: u64, data: &mut [u8]);

    /// Writes to the device's config space; what is not writable is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The driver reset the device: it must no longer touch guest memory when this returns.
    /// Idempotent.
    fn reset(&mut self);

    /// Whether guest-physical memory from `address` on for `len` bytes is RAM, without a gap.
    fn is_ram(&self, address: u64, len: u64) -> bool;
}
