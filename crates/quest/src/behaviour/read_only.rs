//! Memory that the guest may only read.

use std::sync::Arc;

use hv::{Address, RamOptions, Vm};

use crate::{
    BackEnd,
    failure::Result,
    machine::{DONE, END, machine, region, write},
};

const GUEST: &[u8] = &[
    0xa1, 0x00, 0x00, 0x10, 0x00, // 1000: mov eax, [0x100000]
    0xe7, 0xf4, // 1005: out 0xf4, eax
    0xc7, 0x05, 0x04, 0x00, 0x10, 0x00, 0x78, 0x56, 0x34, 0x12, // 1007: mov dword [0x100004], 0x12345678
    0xa1, 0x04, 0x00, 0x10, 0x00, // 1011: mov eax, [0x100004]
    0xe7, 0xf4, // 1016: out 0xf4, eax
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, GUEST)?;
    let rom = region(END, 0x1000)?;
    write(&rom, 0, b"abcdefgh")?;
    let options = RamOptions {
        read_only: true,
        ..Default::default()
    };
    machine.vm.add_ram(Arc::clone(&rom), options)?;
    let mut cpu = machine.protected()?;
    let done = Address::Pio(DONE);
    cpu.writes(done, b"abcd")?;
    cpu.writes(Address::Mmio(END + 4), &0x1234_5678_u32.to_le_bytes())?;
    cpu.writes(done, b"efgh")
}
