//! The second vCPU sleeps until the first sends INIT and SIPI (SDM volume 3, 9.4).

use std::{thread, time::Duration};

use hv::Vcpu;

use crate::{
    BackEnd, Failure, Stop,
    cpu::Cpu,
    failure::{Result, same},
    machine::{DATA, DONE, machine},
};

/// Sends INIT and SIPI with vector 8 to APIC 1, and waits for its sign.
const FIRST: &[u8] = &[
    0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00, // 1000: mov dword [0xfee000f0], 0x1ff
    0xc7, 0x05, 0x10, 0x03, 0xe0, 0xfe, 0x00, 0x00, 0x00, 0x01, // 100a: mov dword [0xfee00310], 0x1000000
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x00, 0x00, // 1014: mov dword [0xfee00300], 0x4500
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x08, 0x46, 0x00, 0x00, // 101e: mov dword [0xfee00300], 0x4608
    0xf3, 0x90, // 1028: pause
    0x80, 0x3d, 0x00, 0x20, 0x00, 0x00, 0x00, // 102a: cmp byte [0x2000], 0x0
    0x74, 0xf5, // 1031: je 0x1028
    0xb8, 0x01, 0x00, 0x00, 0x00, // 1033: mov eax, 0x1
    0x0f, 0xa2, // 1038: cpuid
    0xc1, 0xeb, 0x18, // 103a: shr ebx, 0x18
    0x89, 0x1d, 0x08, 0x20, 0x00, 0x00, // 103d: mov [0x2008], ebx
    0xe6, 0xf4, // 1043: out 0xf4, al
];

/// In real mode, at the page of the vector: stores its APIC id and gives the sign.
const SECOND: &[u8] = &[
    0x31, 0xc0, // 8000: xor ax, ax
    0x8e, 0xd8, // 8002: mov ds, ax
    0x66, 0xb8, 0x01, 0x00, 0x00, 0x00, // 8004: mov eax, 0x1
    0x0f, 0xa2, // 800a: cpuid
    0x66, 0xc1, 0xeb, 0x18, // 800c: shr ebx, 0x18
    0x66, 0x89, 0x1e, 0x04, 0x20, // 8010: mov [0x2004], ebx
    0xc6, 0x06, 0x00, 0x20, 0x01, // 8015: mov byte [0x2000], 0x1
    0xfa, // 801a: cli
    0xf4, // 801b: hlt
    0xeb, 0xfc, // 801c: jmp 0x801a
];

const SECOND_AT: u64 = 0x8000;

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, FIRST)?;
    machine.write(SECOND_AT, SECOND)?;
    let mut first = machine.protected_of(2)?;
    let mut second = machine.waiting(1, 2)?;

    second.runs_for(Duration::from_millis(10))?;
    same("the sign of the second", &machine.number(DATA)?, &0)?;

    let kicker = second.kicker();
    thread::scope(|threads| {
        let sleeper = threads.spawn(move || until_kicked(&mut second));
        let started = first.reaches(DONE);
        kicker.kick();
        let slept = sleeper.join();
        started?;
        slept.unwrap_or_else(|_| same("the second vCPU's thread", &"panicked", &"ended"))
    })?;
    same("the second's APIC id", &machine.number(DATA + 4)?, &1)?;
    same("the first's APIC id", &machine.number(DATA + 8)?, &0)
}

/// It halts for good; where the host does not wait in the kernel that is an exit.
fn until_kicked<V: Vcpu>(cpu: &mut Cpu<V>) -> Result<()> {
    match cpu.step(&mut std::iter::empty())? {
        Stop::Interrupted | Stop::Halted => Ok(()),
        found => {
            let wanted = "a kick".to_owned();
            Err(Failure::Stop { found, wanted })
        }
    }
}
