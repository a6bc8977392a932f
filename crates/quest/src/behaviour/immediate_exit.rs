//! Kicks that come before the run.

use crate::{
    BackEnd, Stop,
    failure::Result,
    machine::{CODE, DONE, machine},
};

const GUEST: &[u8] = &[
    0xe6, 0xf4, // 1000: out 0xf4, al
    0xeb, 0xfc, // 1002: jmp 0x1000
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let mut cpu = machine(back_end, GUEST)?.protected()?;
    let kicker = cpu.kicker();
    kicker.kick();
    kicker.kick();
    cpu.stops(&Stop::Interrupted)?;
    cpu.is_at(CODE)?;
    // Both kicks were one.
    cpu.reaches(DONE)?;
    kicker.kick();
    cpu.stops(&Stop::Interrupted)?;
    cpu.reaches(DONE)?;
    drop(cpu);
    // The vCPU is gone: nothing happens.
    kicker.kick();
    Ok(())
}
