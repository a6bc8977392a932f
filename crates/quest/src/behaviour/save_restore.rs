//! A computation is saved half way, goes on in a new machine, and in the old one too; both get
//! what the host computes.

use hv::{Vcpu, Vm};

use crate::{
    BackEnd, VmOf,
    cpu::Cpu,
    failure::{Result, same},
    machine::{DONE, Machine, machine},
};

/// Xorshift numbers, added up in 256 sums; tells after each 1024.
const GUEST: &[u8] = &[
    0x48, 0x89, 0xc3, // 1000: mov rbx, rax
    0x48, 0xc1, 0xe3, 0x0d, // 1003: shl rbx, 0xd
    0x48, 0x31, 0xd8, // 1007: xor rax, rbx
    0x48, 0x89, 0xc3, // 100a: mov rbx, rax
    0x48, 0xc1, 0xeb, 0x07, // 100d: shr rbx, 0x7
    0x48, 0x31, 0xd8, // 1011: xor rax, rbx
    0x48, 0x89, 0xc3, // 1014: mov rbx, rax
    0x48, 0xc1, 0xe3, 0x11, // 1017: shl rbx, 0x11
    0x48, 0x31, 0xd8, // 101b: xor rax, rbx
    0x0f, 0xb6, 0xd1, // 101e: movzx edx, cl
    0x48, 0x01, 0x04, 0xd5, 0x00, 0x00, 0x01, 0x00, // 1021: add [rdx*8+0x10000], rax
    0xff, 0xc9, // 1029: dec ecx
    0xf7, 0xc1, 0xff, 0x03, 0x00, 0x00, // 102b: test ecx, 0x3ff
    0x75, 0xcd, // 1031: jne 0x1000
    0xe6, 0xf4, // 1033: out 0xf4, al
    0xeb, 0xc9, // 1035: jmp 0x1000
];

const SUMS: u64 = 0x1_0000;
const SEED: u64 = 0x1234_5678_9abc_def0;
const ROUNDS: u64 = 1024;
const REPORTS: u64 = 6;

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let machine = machine(back_end, GUEST)?;
    let mut cpu = machine.long()?;
    cpu.set(|registers| (registers.rax, registers.rcx) = (SEED, ROUNDS * REPORTS))?;
    for _ in 0..REPORTS / 2 {
        cpu.reaches(DONE)?;
    }
    cpu.completes()?;
    let (copy, mut copied) = moved(back_end, &machine, &mut cpu)?;
    let (before, after) = (cpu.vcpu.registers()?, copied.vcpu.registers()?);
    same("the registers after the move", &after, &before)?;
    finish(&machine, &mut cpu)?;
    finish(&copy, &mut copied)
}

type CpuOf<B> = Cpu<<VmOf<B> as Vm>::Vcpu>;

/// Saves a machine and restores it as a new one, through bytes.
pub(super) fn moved<B: BackEnd>(
    back_end: &B,
    machine: &Machine<VmOf<B>>,
    cpu: &mut CpuOf<B>,
) -> Result<(Machine<VmOf<B>>, CpuOf<B>)> {
    let of_vcpu = postcard::to_allocvec(&cpu.vcpu.save()?)?;
    let of_vm = postcard::to_allocvec(&machine.vm.save()?)?;
    let copy = machine.with_same_memory(back_end)?;
    let mut copied = copy.waiting(0, 1)?;
    copy.vm.restore(&postcard::from_bytes(&of_vm)?)?;
    copied.vcpu.restore(&postcard::from_bytes(&of_vcpu)?)?;
    Ok((copy, copied))
}

fn finish<V: Vm>(machine: &Machine<V>, cpu: &mut Cpu<V::Vcpu>) -> Result<()> {
    for _ in REPORTS / 2..REPORTS {
        cpu.reaches(DONE)?;
    }
    let (number, sums) = expected();
    same("the last number", &cpu.vcpu.registers()?.rax, &number)?;
    let mut found = vec![0; 256 * 8];
    machine.read(SUMS, &mut found)?;
    let sums: Vec<u8> = sums.into_iter().flat_map(u64::to_le_bytes).collect();
    same("the sums", &found, &sums)
}

/// The same in Rust.
fn expected() -> (u64, [u64; 256]) {
    let mut sums = [0_u64; 256];
    let mut number = SEED;
    for round in (1..=ROUNDS * REPORTS).rev() {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        let [low, ..] = round.to_le_bytes();
        let sum = &mut sums[usize::from(low)];
        *sum = sum.wrapping_add(number);
    }
    (number, sums)
}
