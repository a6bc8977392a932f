//! An MSI through an event, while the guest spins.

use std::{thread, time::Duration};

use hv::{MsiEvent, Vm};

use super::interrupts::{MESSAGE, interruptible};
use crate::{
    BackEnd,
    failure::{Result, same},
    machine::{DATA, DONE},
};

/// Spins until the handler has counted.
const GUEST: &[u8] = &[
    0xfb, // 101d: sti
    0xe6, 0xf4, // 101e: out 0xf4, al
    0x83, 0x3d, 0x00, 0x20, 0x00, 0x00, 0x00, // 1020: cmp dword [0x2000], 0x0
    0x74, 0xf7, // 1027: je 0x1020
    0xe6, 0xf5, // 1029: out 0xf5, al
    0xfa, // 102b: cli
    0xf4, // 102c: hlt
];

const INTERRUPTED: u16 = DONE + 1;

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = interruptible(back_end, GUEST)?;
    let event = back_end.event()?;
    let mut msi = machine.vm.msi_event(&event)?;
    msi.set(Some(MESSAGE))?;
    let mut cpu = machine.protected()?;
    cpu.reaches(DONE)?;
    // Without a signal nothing happens.
    cpu.runs_for(Duration::from_millis(10))?;
    thread::scope(|threads| {
        let signal = threads.spawn(|| {
            thread::sleep(Duration::from_millis(10));
            back_end.signal(&event)
        });
        cpu.reaches(INTERRUPTED)?;
        same("signalled", &signal.join().is_ok_and(|done| done.is_ok()), &true)
    })?;
    same("the number of interrupts", &machine.number(DATA)?, &1)
}
