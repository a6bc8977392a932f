//! Doorbells that ring for any write: at a port and in memory, until they are dropped.

use hv::{Address, Match, Vm};

use crate::{
    BackEnd,
    failure::{Result, same},
    machine::{DONE, NOWHERE, machine},
};

const GUEST: &[u8] = &[
    0xba, 0x10, 0x05, 0x00, 0x00, // 1000: mov edx, 0x510
    0xbf, 0x00, 0x00, 0x00, 0x20, // 1005: mov edi, 0x20000000
    0xb8, 0x04, 0x03, 0x02, 0x01, // 100a: mov eax, 0x1020304
    0xee, // 100f: out dx, al
    0x66, 0xef, // 1010: out dx, ax
    0xef, // 1012: out dx, eax
    0xe6, 0xf4, // 1013: out 0xf4, al
    0x88, 0x07, // 1015: mov [edi], al
    0x66, 0x89, 0x07, // 1017: mov [edi], ax
    0x89, 0x07, // 101a: mov [edi], eax
    0xe6, 0xf4, // 101c: out 0xf4, al
    0x66, 0x89, 0x07, // 101e: mov [edi], ax
    0xeb, 0xf9, // 1021: jmp 0x101c
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, GUEST)?;
    let (port, memory) = (back_end.event()?, back_end.event()?);
    let rung = |at_port, in_memory| {
        same("rung at the port", &back_end.take(&port)?, &at_port)?;
        same("rung in memory", &back_end.take(&memory)?, &in_memory)
    };
    let bell = |address, event| machine.vm.doorbell(address, Match::Any, event);
    let at_port = bell(Address::Pio(0x510), &port)?;
    let in_memory = bell(Address::Mmio(NOWHERE), &memory)?;

    let mut cpu = machine.protected()?;
    rung(false, false)?;
    cpu.reaches(DONE)?;
    rung(true, false)?;
    cpu.reaches(DONE)?;
    rung(false, true)?;
    cpu.reaches(DONE)?;
    rung(false, true)?;

    drop((at_port, in_memory));
    cpu.writes(Address::Mmio(NOWHERE), &[4, 3])?;
    rung(false, false)
}
