//! The host bridge at 00:00.0: only an identity, so that a guest finds the bus as it expects it.

use crate::{BarRange, BarSize, ConfigSpace, Identity, PciFunction};

/// The generic PCI Express host bridge that QEMU made known (1b36:0008).
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_00_00,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// A host bridge without registers of its own.
#[derive(Debug)]
pub struct HostBridge(ConfigSpace);

impl HostBridge {
    /// A bridge as after power-on.
    #[must_use]
    pub fn new() -> Self {
        Self(ConfigSpace::new(&IDENTITY))
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn read_bar(&mut self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_bar(&mut self, _bar: u8, _offset: u64, _data: &[u8]) {}

    fn bars(&self) -> Vec<BarSize> {
        Vec::new()
    }

    fn assign_bar(&mut self, _bar: u8, _address: u64) {}

    fn decoded(&self) -> Vec<BarRange> {
        Vec::new()
    }

    fn reset(&mut self) {
        *self = Self::new();
    }
}
