//! Which pages the guest wrote.

use hv::{RamOptions, Vm};

use crate::{
    BackEnd,
    failure::{Result, same},
    machine::{DONE, END, machine, region},
};

/// Writes pages 0, 3, 64 and 127 and reads page 5; then writes page 5; then nothing.
const GUEST: &[u8] = &[
    0xc6, 0x05, 0x00, 0x00, 0x10, 0x00, 0x01, // 1000: mov byte [0x100000], 0x1
    0xc6, 0x05, 0xff, 0x3f, 0x10, 0x00, 0x01, // 1007: mov byte [0x103fff], 0x1
    0xc6, 0x05, 0x00, 0x00, 0x14, 0x00, 0x01, // 100e: mov byte [0x140000], 0x1
    0xc6, 0x05, 0x00, 0xf0, 0x17, 0x00, 0x01, // 1015: mov byte [0x17f000], 0x1
    0xa0, 0x00, 0x50, 0x10, 0x00, // 101c: mov al, [0x105000]
    0xe6, 0xf4, // 1021: out 0xf4, al
    0xc6, 0x05, 0x00, 0x50, 0x10, 0x00, 0x01, // 1023: mov byte [0x105000], 0x1
    0xe6, 0xf4, // 102a: out 0xf4, al
    0xe6, 0xf4, // 102c: out 0xf4, al
];

const PAGES: u64 = 128;

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, GUEST)?;
    let options = RamOptions {
        log_writes: true,
        ..Default::default()
    };
    let slot = machine.vm.add_ram(region(END, PAGES * 0x1000)?, options)?;
    let mut cpu = machine.protected()?;
    for pages in [[1 | 1 << 3, 1 | 1 << 63], [1 << 5, 0], [0, 0]] {
        cpu.reaches(DONE)?;
        let dirty = machine.vm.dirty_pages(slot)?;
        same("the pages written", &dirty.as_slice(), &pages.as_slice())?;
    }
    Ok(())
}
