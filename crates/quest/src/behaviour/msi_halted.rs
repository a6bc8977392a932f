//! An MSI through an event, while the guest waits in HLT.

use std::{thread, time::Duration};

use hv::{MsiEvent, Vm};

use super::interrupts::{MESSAGE, interruptible};
use crate::{
    BackEnd,
    failure::{Result, same},
    machine::{DATA, DONE},
};

/// Halts with interrupts on; tells whenever it is awake.
const GUEST: &[u8] = &[
    0xe6, 0xf4, // 101d: out 0xf4, al
    0xfb, // 101f: sti
    0xf4, // 1020: hlt
    0xfa, // 1021: cli
    0xa1, 0x00, 0x20, 0x00, 0x00, // 1022: mov eax, [0x2000]
    0xeb, 0xf4, // 1027: jmp 0x101d
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = interruptible(back_end, GUEST)?;
    let event = back_end.event()?;
    let mut msi = machine.vm.msi_event(&event)?;
    msi.set(Some(MESSAGE))?;
    let mut cpu = machine.protected()?;
    cpu.reaches(DONE)?;
    for round in 1..=3 {
        // It sleeps, and nothing but the signal ends that.
        cpu.runs_for(Duration::from_millis(10))?;
        thread::scope(|threads| {
            let signal = threads.spawn(|| {
                thread::sleep(Duration::from_millis(10));
                back_end.signal(&event)
            });
            cpu.reaches(DONE)?;
            same("signalled", &signal.join().is_ok_and(|done| done.is_ok()), &true)
        })?;
        same("the number of interrupts", &machine.number(DATA)?, &round)?;
    }
    Ok(())
}
