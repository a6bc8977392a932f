//! HLT. Whether the host waits in the kernel or we do, the guest is past it and goes no further.

use std::time::{Duration, Instant};

use hv::Vcpu;

use crate::{
    BackEnd, LIMIT, Stop,
    failure::{Failure, Result, same},
    machine::{DATA, DONE, machine},
};

const GUEST: &[u8] = &[
    0xe6, 0xf4, // 1000: out 0xf4, al
    0xf4, // 1002: hlt
    0xc6, 0x05, 0x00, 0x20, 0x00, 0x00, 0x01, // 1003: mov byte [0x2000], 0x1
    0xf4, // 100a: hlt
];

const AFTER_HALT: u64 = 0x1003;

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, GUEST)?;
    let mut cpu = machine.protected()?;
    cpu.reaches(DONE)?;
    let begin = Instant::now();
    let mut halts_seen = 0;
    while halts_seen < 2 && begin.elapsed() < LIMIT {
        if let Err(error) = cpu.runs_for(Duration::from_millis(10)) {
            match error {
                Failure::Stop {
                    found: Stop::Halted,
                    ..
                } => {}
                error => return Err(error),
            }
        }
        halts_seen += u32::from(cpu.vcpu.registers()?.rip == AFTER_HALT);
    }
    cpu.is_at(AFTER_HALT)?;
    same("what is after the halt", &machine.number(DATA)?, &0)
}
