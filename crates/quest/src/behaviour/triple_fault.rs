//! An exception without a handler, and so on up to the shutdown (SDM volume 3, 6.15, #DF).

use crate::{BackEnd, Stop, failure::Result, machine::machine};

/// Loads an empty descriptor table, from data that is zero, and divides by zero.
const GUEST: &[u8] = &[
    0x0f, 0x01, 0x1d, 0x00, 0x20, 0x00, 0x00, // 1000: lidt [0x2000]
    0x31, 0xc9, // 1007: xor ecx, ecx
    0xf7, 0xf1, // 1009: div ecx
    0xf4, // 100b: hlt
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let mut cpu = machine(back_end, GUEST)?.protected()?;
    cpu.stops(&Stop::TripleFault)
}
