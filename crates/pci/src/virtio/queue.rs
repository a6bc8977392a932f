//! The registers of one queue, and what must hold before a device may use it.

use serde::{Deserialize, Serialize};

use super::backend::QueueSetup;

/// `VIRTIO_MSI_NO_VECTOR`.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// The largest queue (virtio 1.2, section 2.7).
pub(super) const MAX_SIZE: u16 = 32768;

/// One queue, as the driver has set it up so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Queue {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) vector: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

impl Queue {
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            vector: NO_VECTOR,
            enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
        }
    }

    /// The set-up if it is one that a device can be given (virtio 1.2, section 2.7: sizes and
    /// alignments of the split ring).
    pub(super) fn check(
        &self,
        index: u16,
        is_ram: impl Fn(u64, u64) -> bool,
    ) -> Option<QueueSetup> {
        if !self.size.is_power_of_two() || self.size > self.max_size {
            return None;
        }
        let entries = u64::from(self.size);
        // Flags, index and event index are 2 bytes each: 6 beside the entries.
        let rings = [
            (self.descriptors, 16, entries.checked_mul(16)?),
            (self.available, 2, entries.checked_mul(2)?.checked_add(6)?),
            (self.used, 4, entries.checked_mul(8)?.checked_add(6)?),
        ];
        let usable = |(address, align, len): (u64, u64, u64)| {
            address.is_multiple_of(align)
                && address.checked_add(len).is_some()
                && is_ram(address, len)
        };
        rings.into_iter().all(usable).then_some(QueueSetup {
            index,
            size: self.size,
            descriptors: self.descriptors,
            available: self.available,
            used: self.used,
            vector: self.vector(),
        })
    }

    pub(super) fn vector(&self) -> Option<u16> {
        (self.vector != NO_VECTOR).then_some(self.vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        let mut queue = Queue::new(256);
        (queue.descriptors, queue.available, queue.used) = (0x1000, 0x2000, 0x3000);
        queue
    }

    fn ram(address: u64, len: u64) -> bool {
        address.checked_add(len).is_some_and(|end| end <= 0x1_0000)
    }

    #[test]
    fn a_queue_in_ram_is_usable_with_any_power_of_two_up_to_its_largest() {
        for size in [1, 2, 128, 256] {
            assert!(Queue { size, ..queue() }.check(0, ram).is_some(), "{size}");
        }
        for size in [0, 3, 255, 512, 0x8000, 0xffff] {
            assert!(Queue { size, ..queue() }.check(0, ram).is_none(), "{size}");
        }
    }

    #[test]
    fn a_ring_that_is_not_aligned_or_not_in_ram_is_refused() {
        // 256 descriptors are 4096 bytes, the available ring 518, the used ring 2054.
        assert!(
            Queue {
                descriptors: 0xf000,
                ..queue()
            }
            .check(0, ram)
            .is_some()
        );
        assert!(
            Queue {
                available: 0x1_0000 - 518,
                ..queue()
            }
            .check(0, ram)
            .is_some()
        );
        assert!(
            Queue {
                used: 0x1_0000 - 2056,
                ..queue()
            }
            .check(0, ram)
            .is_some()
        );
        for queue in [
            Queue {
                descriptors: 0x1008,
                ..queue()
            },
            Queue {
                available: 0x2001,
                ..queue()
            },
            Queue {
                used: 0x3002,
                ..queue()
            },
            Queue {
                descriptors: 0xf010,
                ..queue()
            },
            Queue {
                available: 0x1_0000 - 516,
                ..queue()
            },
            Queue {
                used: 0x1_0000 - 2052,
                ..queue()
            },
            Queue {
                descriptors: !15,
                ..queue()
            },
            Queue {
                used: 1 << 63,
                ..queue()
            },
        ] {
            assert!(queue.check(0, ram).is_none(), "{queue:?}");
        }
    }
}
