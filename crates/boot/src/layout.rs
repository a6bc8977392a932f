//! Where everything is in a guest's physical address space.
//!
//! ```text
//! 0                  start info, command line
//! 640 KiB            end of low memory
//! 896 KiB            ACPI tables
//! 1 MiB              memory: the kernel where it wants to be, the initramfs at the end
//! 3 GiB  (at most)   hole: PCI configuration space, I/O APIC, local APIC
//! 4 GiB              the rest of the memory
//! after that         PCI BARs
//! ```

/// `hvm_start_info` and what it points to, but the command line.
pub const START_INFO: u64 = 0x6000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line with its terminating zero (`COMMAND_LINE_SIZE` of x86 Linux).
pub const COMMAND_LINE_MAX: usize = 2048;
/// The end of memory below 1 MiB that the guest may use.
pub const LOW_END: u64 = 0xa_0000;
/// The ACPI tables, where a PC's firmware is.
pub const ACPI: u64 = 0xe_0000;
/// Room for them.
pub const ACPI_SIZE: u64 = 0x2_0000;
/// Where memory goes on.
pub const HIGH_START: u64 = 1 << 20;
/// The hole for devices with 32-bit addresses.
pub const HOLE_START: u64 = 3 << 30;
/// Its end.
pub const HOLE_END: u64 = 4 << 30;
/// PCI configuration space, memory-mapped: bus 0, 1 MiB (PCI Express 5.0, section 7.2.2).
pub const ECAM: u64 = 0xe000_0000;
/// Its size.
pub const ECAM_SIZE: u64 = 1 << 20;
/// The I/O APIC.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// The size of the window for PCI BARs: 32 devices with 512 MiB each.
pub const PCI_WINDOW_SIZE: u64 = 16 << 30;

/// Ports of what is not on the PCI bus.
pub mod port {
    /// The 16550 (COM1), 8 registers.
    pub const SERIAL: u16 = 0x3f8;
    /// What the guest's kernel writes when it panics (QEMU, docs/specs/pvpanic.rst).
    pub const PANIC: u16 = 0x505;
    /// ACPI sleep control (ACPI 6.5, section 4.8.3.7).
    pub const SLEEP_CONTROL: u16 = 0x600;
    /// ACPI sleep status.
    pub const SLEEP_STATUS: u16 = 0x601;
    /// ACPI reset register (section 4.8.3.6).
    pub const RESET: u16 = 0x602;
    /// What is written to [`RESET`].
    pub const RESET_VALUE: u8 = 1;
}

/// Inputs of the I/O APIC.
pub mod input {
    /// COM1, as ever.
    pub const SERIAL: u32 = 4;
    /// The power button.
    pub const POWER: u32 = 5;
}

/// The value of the sleep type field that powers off, as the DSDT's `\_S5` says.
pub const SLEEP_TYPE_OFF: u8 = 5;

/// Where a guest's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// From 0 to here, at most [`HOLE_START`].
    pub low: u64,
    /// From [`HOLE_END`], this many bytes.
    pub high: u64,
}

impl Layout {
    /// The layout of a machine with `memory` bytes.
    #[must_use]
    pub fn new(memory: u64) -> Self {
        let low = memory.min(HOLE_START);
        Self {
            low,
            high: memory.saturating_sub(low),
        }
    }

    /// The pieces of memory: guest address and length.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let all = [(0, self.low), (HOLE_END, self.high)];
        all.into_iter().filter(|(_, length)| *length > 0)
    }

    /// Where PCI BARs go.
    #[must_use]
    pub fn pci_window(&self) -> std::ops::Range<u64> {
        const GIB: u64 = 1 << 30;
        let end = HOLE_END.saturating_add(self.high);
        let start = end.checked_next_multiple_of(GIB).unwrap_or(end);
        start..start.saturating_add(PCI_WINDOW_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_leaves_the_hole_out() {
        let ranges = |memory| Layout::new(memory).ranges().collect::<Vec<_>>();
        assert_eq!(ranges(64 << 20), [(0, 64 << 20)]);
        assert_eq!(ranges(3 << 30), [(0, 3 << 30)]);
        assert_eq!(ranges(5 << 30), [(0, 3 << 30), (4 << 30, 2 << 30)]);
    }

    #[test]
    fn the_pci_window_is_above_all_memory() {
        for memory in [64 << 20, 5 << 30, (5 << 30) + (2 << 20), 512 << 30] {
            let layout = Layout::new(memory);
            let end = layout.ranges().map(|(start, length)| start + length).max();
            let window = layout.pci_window();
            assert!(window.start >= end.unwrap().max(4 << 30));
            // 40 physical address bits are the least that a CPU of today has.
            assert!(window.end <= 1 << 40);
        }
    }
}
