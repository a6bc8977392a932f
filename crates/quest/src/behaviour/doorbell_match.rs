//! Doorbells that ring for one value: several at one address, each with its own event.

use hv::{Address, Match, Vm};

use crate::{
    BackEnd,
    failure::{Result, same},
    machine::{DONE, NOWHERE, machine},
};

/// Writes a number that it is given, in memory with 2 bytes and at a port with 4.
const GUEST: &[u8] = &[
    0xbf, 0x00, 0x00, 0x00, 0x20, // 1000: mov edi, 0x20000000
    0xba, 0x10, 0x05, 0x00, 0x00, // 1005: mov edx, 0x510
    0xed, // 100a: in eax, dx
    0x66, 0x89, 0x07, // 100b: mov [edi], ax
    0xba, 0x20, 0x05, 0x00, 0x00, // 100e: mov edx, 0x520
    0xef, // 1013: out dx, eax
    0xe6, 0xf4, // 1014: out 0xf4, al
    0xeb, 0xed, // 1016: jmp 0x1005
];

const NUMBERS: Address = Address::Pio(0x510);
const PORT: Address = Address::Pio(0x520);
const MEMORY: Address = Address::Mmio(NOWHERE);

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, GUEST)?;
    let events = [back_end.event()?, back_end.event()?, back_end.event()?];
    let [seven, eight, port] = &events;
    let mut bells = vec![
        machine.vm.doorbell(MEMORY, Match::U16(7), seven)?,
        machine.vm.doorbell(MEMORY, Match::U16(8), eight)?,
        machine.vm.doorbell(PORT, Match::U32(8), port)?,
    ];
    let mut cpu = machine.protected()?;
    let mut write = |number: u8, rung: [bool; 3]| {
        let [in_memory, at_port] = [[number, 0, 0, 0], [number, 0, 0, 0]];
        cpu.reads(NUMBERS, &in_memory)?;
        if !rung[0] && !rung[1] {
            cpu.writes(MEMORY, &in_memory[..2])?;
        }
        if !rung[2] {
            cpu.writes(PORT, &at_port)?;
        }
        cpu.reaches(DONE)?;
        for (event, rung) in events.iter().zip(rung) {
            same("rung", &back_end.take(event)?, &rung)?;
        }
        Ok(())
    };
    write(6, [false, false, false])?;
    write(7, [true, false, false])?;
    write(8, [false, true, true])?;
    bells.remove(0);
    write(7, [false, false, false])?;
    write(8, [false, true, true])
}
