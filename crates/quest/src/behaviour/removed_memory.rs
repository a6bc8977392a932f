//! Memory that comes and goes.

use hv::{Address, RamOptions, Vm};

use crate::{
    BackEnd,
    failure::Result,
    machine::{DONE, END, machine, region, write},
};

const GUEST: &[u8] = &[
    0xa1, 0x00, 0x00, 0x10, 0x00, // 1000: mov eax, [0x100000]
    0xe7, 0xf4, // 1005: out 0xf4, eax
    0xeb, 0xf7, // 1007: jmp 0x1000
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, GUEST)?;
    let mut cpu = machine.protected()?;
    let (done, there) = (Address::Pio(DONE), Address::Mmio(END));
    cpu.reads(there, b"none")?;
    cpu.writes(done, b"none")?;
    for content in [b"here", b"anew"] {
        let ram = region(END, 0x1000)?;
        write(&ram, 0, content)?;
        let slot = machine.vm.add_ram(ram, RamOptions::default())?;
        cpu.writes(done, content)?;
        machine.vm.remove_ram(slot)?;
        cpu.reads(there, b"gone")?;
        cpu.writes(done, b"gone")?;
    }
    Ok(())
}
