//! What the bus needs of a function.

/// A BAR as a function is built with it: a pair of registers holding a 64-bit prefetchable address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarSize {
    /// The first register of the pair, 0 to 4.
    pub index: u8,
    /// In bytes, a power of two.
    pub size: u64,
}

/// A range of addresses that a function answers to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarRange {
    /// Which BAR of the function.
    pub index: u8,
    /// The first address, a multiple of the size.
    pub base: u64,
    /// In bytes, a power of two.
    pub size: u64,
}

impl BarRange {
    /// The offset of `address` in the range, if it lies there.
    #[must_use]
    pub fn offset(&self, address: u64) -> Option<u64> {
        address
            .checked_sub(self.base)
            .filter(|offset| *offset < self.size)
    }
}

/// One PCI function. Called with the guest's accesses, of any width at any offset, by the vCPU
/// threads one at a time.
pub trait PciFunction: Send {
    /// Fills `data` from config space; bytes from 256 on are zero (no extended capabilities).
    fn read_config(&mut self, offset: u16, data: &mut [u8]);

    /// Writes to config space; read-only bits stay as they are.
    fn write_config(&mut self, offset: u16, data: &[u8]);

    /// Fills `data` from the region behind a BAR; what is no register is zero.
    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes to the region behind a BAR; what is no register is ignored.
    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]);

    /// The BARs that it is built with, constant over its life.
    fn bars(&self) -> Vec<BarSize>;

    /// Gives a BAR an address, as firmware would before the guest starts. `address` is a multiple
    /// of the BAR's size.
    fn assign_bar(&mut self, bar: u8, address: u64);

    /// The ranges that it answers to now: the guest may move BARs and switch them off.
    fn decoded(&self) -> Vec<BarRange>;

    /// Back to the state after power-on, but for the addresses of the BARs. Idempotent.
    fn reset(&mut self);
}
