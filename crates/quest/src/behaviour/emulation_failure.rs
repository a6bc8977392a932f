//! An instruction that accesses MMIO is emulated; one that the emulator does not know is reported
//! with its address and bytes.

use hv::EmulationFailure;

use crate::{BackEnd, Failure, Stop, failure::Result, machine::machine};

/// No emulator of a kernel loads floating point numbers.
const GUEST: &[u8] = &[
    0xb8, 0x00, 0x00, 0x00, 0x20, // 1000: mov eax, 0x20000000
    0xdd, 0x00, // 1005: fld qword [eax]
    0xf4, // 1007: hlt
];

const LOAD_AT: u64 = 0x1005;
const LOAD: &[u8] = &[0xdd, 0x00];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let mut cpu = machine(back_end, GUEST)?.protected()?;
    match cpu.step(&mut std::iter::empty())? {
        Stop::EmulationFailure(EmulationFailure { rip, bytes })
            if rip == LOAD_AT && bytes.starts_with(LOAD) =>
        {
            Ok(())
        }
        found => Err(Failure::Stop {
            found,
            wanted: format!("want of emulation at {LOAD_AT:#x}, bytes {LOAD:02x?}"),
        }),
    }
}
