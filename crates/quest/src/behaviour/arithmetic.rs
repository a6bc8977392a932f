//! Integer arithmetic in 64-bit mode.

use hv::Vcpu;

use crate::{
    BackEnd,
    failure::{Result, same},
    machine::{DONE, machine},
};

const GUEST: &[u8] = &[
    0x48, 0x89, 0xf8, // 1000: mov rax, rdi
    0x48, 0xf7, 0xe6, // 1003: mul rsi
    0x49, 0x89, 0xc0, // 1006: mov r8, rax
    0x49, 0x89, 0xd1, // 1009: mov r9, rdx
    0x48, 0xf7, 0xf6, // 100c: div rsi
    0x49, 0x89, 0xc2, // 100f: mov r10, rax
    0x48, 0x89, 0xf8, // 1012: mov rax, rdi
    0x48, 0x01, 0xf0, // 1015: add rax, rsi
    0x49, 0x89, 0xc3, // 1018: mov r11, rax
    0x48, 0x19, 0xdb, // 101b: sbb rbx, rbx
    0x49, 0x89, 0xfc, // 101e: mov r12, rdi
    0x49, 0xc1, 0xc4, 0x0d, // 1021: rol r12, 0xd
    0x49, 0x31, 0xf4, // 1025: xor r12, rsi
    0x49, 0x89, 0xfd, // 1028: mov r13, rdi
    0x49, 0xc1, 0xfd, 0x05, // 102b: sar r13, 0x5
    0x4c, 0x0f, 0xaf, 0xee, // 102f: imul r13, rsi
    0x45, 0x31, 0xf6, // 1033: xor r14d, r14d
    0xb9, 0xe8, 0x03, 0x00, 0x00, // 1036: mov ecx, 0x3e8
    0x49, 0x01, 0xce, // 103b: add r14, rcx
    0xff, 0xc9, // 103e: dec ecx
    0x75, 0xf9, // 1040: jne 0x103b
    0xe6, 0xf4, // 1042: out 0xf4, al
];

const PAIRS: [(u64, u64); 4] = [
    (3, 5),
    (u64::MAX, u64::MAX),
    (0xdead_beef_0bad_cafe, 0x1234_5678_9abc_def1),
    (1 << 63, 2),
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    for (a, b) in PAIRS {
        let mut cpu = machine(back_end, GUEST)?.long()?;
        cpu.set(|registers| (registers.rdi, registers.rsi) = (a, b))?;
        cpu.reaches(DONE)?;
        let found = cpu.vcpu.registers()?;
        let product = u128::from(a) * u128::from(b);
        let (sum, carry) = a.overflowing_add(b);
        let bytes = found.r8.to_le_bytes().into_iter();
        let bytes: Vec<u8> = bytes.chain(found.r9.to_le_bytes()).collect();
        same("the product", &bytes, &product.to_le_bytes().to_vec())?;
        same("the quotient", &found.r10, &a)?;
        same("the sum", &found.r11, &sum)?;
        same("the carry", &found.rbx, &if carry { u64::MAX } else { 0 })?;
        same("what is rotated", &found.r12, &(a.rotate_left(13) ^ b))?;
        let shifted = (a.cast_signed() >> 5).cast_unsigned();
        same("what is shifted", &found.r13, &shifted.wrapping_mul(b))?;
        same("the loop's sum", &found.r14, &(1..=1000).sum())?;
    }
    Ok(())
}
