//! A guest that spins is stopped from another thread. None of many kicks is lost, wherever
//! between two runs it falls, and the guest goes on where it was.

use std::{sync::mpsc, thread};

use hv::Vcpu;

use crate::{
    BackEnd, Failure, LIMIT, Stop,
    failure::Result,
    machine::machine,
};

const GUEST: &[u8] = &[
    0x40, // 1000: inc eax
    0xeb, 0xfd, // 1001: jmp 0x1000
];

const KICKS: u32 = 200;

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let mut cpu = machine(back_end, GUEST)?.protected()?;
    let kicker = cpu.kicker();
    let (answer, answers) = mpsc::channel();
    thread::scope(|threads| {
        let kicks = threads.spawn(move || {
            (0..KICKS).all(|_| {
                kicker.kick();
                answers.recv_timeout(LIMIT).is_ok()
            })
        });
        for _ in 0..KICKS {
            cpu.stops(&Stop::Interrupted)?;
            // Nobody listens only after a kick was lost, which is told below.
            let _ = answer.send(());
        }
        drop(answer);
        crate::failure::same("each kick answered", &kicks.join().is_ok_and(|all| all), &true)
    })?;
    match cpu.vcpu.registers()? {
        registers if registers.rax > 0 && (0x1000..0x1003).contains(&registers.rip) => Ok(()),
        registers => Err(Failure::Value {
            what: "the counter and rip of a guest that spins",
            found: format!("{:#x}, {:#x}", registers.rax, registers.rip),
            wanted: "above zero, within the loop".to_owned(),
        }),
    }
}
