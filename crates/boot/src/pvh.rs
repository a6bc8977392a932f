//! `hvm_start_info` (Xen, public/arch-x86/hvm/start_info.h): what a PVH kernel is told.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{Error, Layout, initramfs::Initramfs, layout};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_*`, the numbers of E820.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
/// The sizes of the three structures.
const START_INFO: u64 = 56;
const MODULE: u64 = 32;

/// Writes the start info, and what it points to; returns its address.
pub(crate) fn write(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    command_line: &str,
    initramfs: Option<Initramfs>,
    rsdp: u64,
) -> Result<u32, Error> {
    let length = command_line.len();
    if length >= layout::COMMAND_LINE_MAX {
        return Err(Error::CommandLine(length));
    }
    let mut line = command_line.as_bytes().to_vec();
    line.push(0);
    memory.write_slice(&line, GuestAddress(layout::COMMAND_LINE))?;

    let module = layout::START_INFO.saturating_add(START_INFO);
    let map = module.saturating_add(MODULE);
    let entries = memory_map(layout);
    let mut bytes = Vec::new();
    for word in [MAGIC, VERSION, 0, u32::from(initramfs.is_some())] {
        bytes.extend(word.to_le_bytes());
    }
    for word in [module, layout::COMMAND_LINE, rsdp, map] {
        bytes.extend(word.to_le_bytes());
    }
    let count = u32::try_from(entries.len()).unwrap_or_default();
    bytes.extend(count.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    let Initramfs { start, length } = initramfs.unwrap_or(Initramfs {
        start: 0,
        length: 0,
    });
    for word in [start, length, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    for (start, length, kind) in entries {
        bytes.extend(start.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
    }
    memory.write_slice(&bytes, GuestAddress(layout::START_INFO))?;
    u32::try_from(layout::START_INFO).map_err(|_| Error::Tables)
}

/// Memory, and the configuration space, which Linux believes in only if it is reserved.
fn memory_map(layout: &Layout) -> Vec<(u64, u64, u32)> {
    let above = layout.low.saturating_sub(layout::HIGH_START);
    let mut map = vec![
        (0, layout::LOW_END, RAM),
        (layout::ACPI, layout::ACPI_SIZE, RESERVED),
        (layout::HIGH_START, above, RAM),
        (layout::ECAM, layout::ECAM_SIZE, RESERVED),
    ];
    if layout.high > 0 {
        map.push((layout::HOLE_END, layout.high, RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_info_points_to_what_was_written() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let layout = Layout::new(5 << 30);
        let initramfs = Initramfs {
            start: 0x1234_5000,
            length: 99,
        };
        let at = write(&memory, &layout, "quiet", Some(initramfs), 0xe_0000).unwrap();
        let word = |offset: u64| -> u64 {
            memory
                .read_obj(GuestAddress(u64::from(at) + offset))
                .unwrap()
        };
        assert_eq!(word(0), u64::from(VERSION) << 32 | u64::from(MAGIC));
        let mut line = [0; 6];
        memory
            .read_slice(&mut line, GuestAddress(word(24)))
            .unwrap();
        assert_eq!(&line, b"quiet\0");
        assert_eq!(word(32), 0xe_0000);
        let module: u64 = memory.read_obj(GuestAddress(word(16))).unwrap();
        assert_eq!(module, 0x1234_5000);
        let last = word(40) + 4 * 24;
        let high: [u64; 2] = [0, 8].map(|o| memory.read_obj(GuestAddress(last + o)).unwrap());
        assert_eq!(high, [4 << 30, 2 << 30]);
    }

    #[test]
    fn a_command_line_that_is_too_long_is_refused() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let long = "x".repeat(layout::COMMAND_LINE_MAX);
        let written = write(&memory, &Layout::new(64 << 20), &long, None, 0);
        assert!(matches!(written, Err(Error::CommandLine(_))));
    }
}
