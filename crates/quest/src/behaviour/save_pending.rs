//! An interrupt that reached the APIC but not yet the guest is part of the state.

use hv::Vm;

use super::{
    interrupts::{MESSAGE, POLL, interruptible, one_arrives},
    save_restore::moved,
};
use crate::{
    BackEnd,
    failure::{Result, same},
    machine::{DATA, DONE},
};

/// Tells that it is there while interrupts are off; then polls.
const READY: &[u8] = &[
    0xe6, 0xf4, // 101d: out 0xf4, al
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let guest: Vec<u8> = READY.iter().chain(POLL).copied().collect();
    let machine = interruptible(back_end, &guest)?;
    let mut cpu = machine.protected()?;
    cpu.reaches(DONE)?;
    machine.vm.signal_msi(MESSAGE)?;
    cpu.completes()?;
    same("interrupts before the save", &machine.number(DATA)?, &0)?;
    let (_copy, mut copied) = moved(back_end, &machine, &mut cpu)?;
    one_arrives(&mut cpu, 0)?;
    one_arrives(&mut copied, 0)
}
