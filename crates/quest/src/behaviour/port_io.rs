//! Port I/O of each width: what the guest reads comes back, inverted, at the next port.

use hv::Address::Pio;

use crate::{BackEnd, failure::Result, machine::machine};

const GUEST: &[u8] = &[
    0xba, 0x10, 0x05, 0x00, 0x00, // 1000: mov edx, 0x510
    0xec, // 1005: in al, dx
    0xf6, 0xd0, // 1006: not al
    0x42, // 1008: inc edx
    0xee, // 1009: out dx, al
    0x42, // 100a: inc edx
    0x66, 0xed, // 100b: in ax, dx
    0x66, 0xf7, 0xd0, // 100d: not ax
    0x83, 0xc2, 0x02, // 1010: add edx, 0x2
    0x66, 0xef, // 1013: out dx, ax
    0x83, 0xc2, 0x04, // 1015: add edx, 0x4
    0xed, // 1018: in eax, dx
    0xf7, 0xd0, // 1019: not eax
    0x83, 0xc2, 0x04, // 101b: add edx, 0x4
    0xef, // 101e: out dx, eax
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let mut cpu = machine(back_end, GUEST)?.protected()?;
    cpu.reads(Pio(0x510), &[0x12])?;
    cpu.writes(Pio(0x511), &[!0x12])?;
    cpu.reads(Pio(0x512), &[0x34, 0x56])?;
    cpu.writes(Pio(0x514), &[!0x34, !0x56])?;
    cpu.reads(Pio(0x518), &[0x78, 0x9a, 0xbc, 0xde])?;
    cpu.writes(Pio(0x51c), &[!0x78, !0x9a, !0xbc, !0xde])
}
