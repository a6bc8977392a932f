//! The common configuration registers (virtio 1.2, section 4.1.4.3) and the life of a device that
//! they steer (section 3.1).

use serde::{Deserialize, Serialize};

use crate::access::{Field, Registers};

use super::VirtioBackend;
use super::backend::Activation;
use super::interrupts::Interrupts;
use super::queue::Queue;

/// Device status bits (virtio 1.2, section 2.1).
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const VERSION_1: u64 = 1 << 32;

/// `struct virtio_pci_common_cfg`: offset and width of each register.
pub(super) const FIELDS: [Field; 16] = {
    const fn field(offset: u64, width: u8) -> Field {
        Field { offset, width }
    }
    [
        field(0x00, 4), // device_feature_select
        field(0x04, 4), // device_feature
        field(0x08, 4), // driver_feature_select
        field(0x0c, 4), // driver_feature
        field(0x10, 2), // config_msix_vector
        field(0x12, 2), // num_queues
        field(0x14, 1), // device_status
        field(0x15, 1), // config_generation
        field(0x16, 2), // queue_select
        field(0x18, 2), // queue_size
        field(0x1a, 2), // queue_msix_vector
        field(0x1c, 2), // queue_enable
        field(0x1e, 2), // queue_notify_off
        field(0x20, 8), // queue_desc
        field(0x28, 8), // queue_driver
        field(0x30, 8), // queue_device
    ]
};

/// What the driver has written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Common {
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) status: u8,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<Queue>,
    /// The back end runs: it was started and has not been reset.
    #[serde(skip)]
    pub(super) running: bool,
}

impl Common {
    pub(super) fn new(sizes: &[u16]) -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            status: 0,
            queue_select: 0,
            queues: sizes.iter().copied().map(Queue::new).collect(),
            running: false,
        }
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The selected queue while the driver may still set it up.
    fn open_queue(&mut self) -> Option<&mut Queue> {
        let queue = self.queues.get_mut(usize::from(self.queue_select))?;
        (!queue.enabled).then_some(queue)
    }

    fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Self::new(&sizes);
    }
}

/// The registers together with what they act on, for the time of one access.
pub(super) struct Access<'a, B> {
    pub(super) common: &'a mut Common,
    pub(super) backend: &'a mut B,
    pub(super) interrupts: &'a Interrupts,
    /// Where the guest notifies queue 0.
    pub(super) notify: Option<u64>,
}

impl<B: VirtioBackend> Registers for Access<'_, B> {
    fn get(&mut self, offset: u64) -> u64 {
        let queue = self.common.queue();
        match offset {
            0x00 => self.common.device_feature_select.into(),
            0x04 => half(self.common.device_feature_select, || {
                self.backend.features()
            }),
            0x08 => self.common.driver_feature_select.into(),
            0x0c => half(self.common.driver_feature_select, || {
                self.common.driver_features
            }),
            0x10 => self.interrupts.lock().config_vector.into(),
            0x12 => self.common.queues.len() as u64,
            0x14 => self.status().into(),
            0x15 => self.interrupts.lock().generation.into(),
            0x16 => self.common.queue_select.into(),
            // A queue that does not exist has size 0.
            0x18 => queue.map_or(0, |queue| queue.size.into()),
            0x1a => queue
                .map_or(super::queue::NO_VECTOR, |queue| queue.vector)
                .into(),
            0x1c => queue.is_some_and(|queue| queue.enabled).into(),
            0x1e => queue.map_or(0, |_| self.common.queue_select.into()),
            0x20 => queue.map_or(0, |queue| queue.descriptors),
            0x28 => queue.map_or(0, |queue| queue.available),
            0x30 => queue.map_or(0, |queue| queue.used),
            _ => 0,
        }
    }

    fn set(&mut self, offset: u64, value: u64) {
        match offset {
            0x00 => self.common.device_feature_select = low32(value),
            0x08 => self.common.driver_feature_select = low32(value),
            0x0c => self.set_driver_feature(value),
            0x10 => {
                let mut interrupts = self.interrupts.lock();
                interrupts.config_vector = interrupts.usable(low16(value));
            }
            0x14 => self.set_status(low8(value)),
            0x16 => self.common.queue_select = low16(value),
            0x1a => self.set_queue_vector(low16(value)),
            0x1c if value == 1 => self.enable_queue(),
            0x18 | 0x20 | 0x28 | 0x30 => {
                if let Some(queue) = self.common.open_queue() {
                    match offset {
                        0x18 => queue.size = low16(value),
                        0x20 => queue.descriptors = value,
                        0x28 => queue.available = value,
                        _ => queue.used = value,
                    }
                }
            }
            _ => {}
        }
    }
}

impl<B: VirtioBackend> Access<'_, B> {
    fn status(&self) -> u8 {
        // A driver waits after a reset until it reads 0, also from a device that fails just then.
        let needs_reset = self.common.status != 0 && self.interrupts.lock().needs_reset;
        self.common.status | if needs_reset { NEEDS_RESET } else { 0 }
    }

    fn set_driver_feature(&mut self, value: u64) {
        if self.common.status & FEATURES_OK == 0 {
            let shift = match self.common.driver_feature_select {
                0 => 0,
                1 => 32,
                _ => return,
            };
            let kept = self.common.driver_features & !(0xffff_ffff << shift);
            self.common.driver_features = kept | (value & 0xffff_ffff) << shift;
        }
    }

    fn set_queue_vector(&mut self, vector: u16) {
        let vector = self.interrupts.lock().usable(vector);
        let select = self.common.queue_select;
        let Some(queue) = self.common.queues.get_mut(usize::from(select)) else {
            return;
        };
        queue.vector = vector;
        if queue.enabled && self.common.running {
            let vector = queue.vector();
            self.backend.set_vector(select, vector);
        }
    }

    /// A queue is checked when it is enabled; a bad one, or one that comes after `DRIVER_OK`, is
    /// the driver's mistake.
    fn enable_queue(&mut self) {
        let select = self.common.queue_select;
        let late = self.common.status & DRIVER_OK != 0;
        let backend = &*self.backend;
        let Some(queue) = self.common.open_queue() else {
            return;
        };
        let usable = queue
            .check(select, |address, len| backend.is_ram(address, len))
            .is_some();
        if usable && !late {
            queue.enabled = true;
        } else {
            self.interrupts.needs_reset();
        }
    }

    fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.reset();
            return;
        }
        // Bits are only ever added (section 2.1.1); the device owns NEEDS_RESET.
        let new = value & !self.common.status & !NEEDS_RESET;
        let refused = new & FEATURES_OK != 0 && !self.accept();
        self.common.status |= new & !DRIVER_OK & if refused { !FEATURES_OK } else { 0xff };
        if new & DRIVER_OK != 0 {
            self.activate();
        }
    }

    fn accept(&mut self) -> bool {
        let (chosen, offered) = (self.common.driver_features, self.backend.features());
        chosen & !offered == 0 && chosen & VERSION_1 != 0 && self.backend.accept(chosen)
    }

    /// Replays one status bit of a saved state.
    pub(super) fn resume(&mut self, bit: u8) {
        self.set_status(bit);
        if self.common.status & bit == 0 {
            self.common.status |= bit;
            self.interrupts.needs_reset();
        }
    }

    fn activate(&mut self) {
        let failed = self.interrupts.lock().needs_reset;
        let ready = self.common.status & FEATURES_OK != 0 && !failed;
        let backend = &*self.backend;
        let queues = (0u16..)
            .zip(&self.common.queues)
            .filter(|(_, queue)| queue.enabled);
        let queues = queues
            .map(|(index, queue)| queue.check(index, |at, len| backend.is_ram(at, len)))
            .collect::<Option<Vec<_>>>()
            .filter(|_| ready);
        self.common.status |= DRIVER_OK;
        self.interrupts.lock().set_driver_ok();
        let activation = queues.map(|queues| Activation {
            queues,
            notify: self.notify,
        });
        self.common.running =
            activation.is_some_and(|activation| self.backend.activate(&activation).is_ok());
        if !self.common.running {
            self.interrupts.needs_reset();
        }
    }

    pub(super) fn reset(&mut self) {
        self.backend.reset();
        self.common.reset();
        self.interrupts.lock().reset_device();
    }
}

/// The 32 feature bits that `select` names; only two such words exist.
fn half(select: u32, features: impl FnOnce() -> u64) -> u64 {
    match select {
        0 => features() & 0xffff_ffff,
        1 => features() >> 32,
        _ => 0,
    }
}

fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn low16(value: u64) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

fn low8(value: u64) -> u8 {
    let [a, ..] = value.to_le_bytes();
    a
}
