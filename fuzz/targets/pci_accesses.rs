//! What a guest does to configuration space and to the registers of a virtio device, in every width.
#![no_main]

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../crates/pci/tests/registers/machine.rs"]
mod machine;

use libfuzzer_sys::fuzz_target;
use machine::{Machine, WINDOW};

/// One access: what to do, where, and with which bytes.
fn access<'a>(machine: &Machine, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let ([what, low, high], rest) = bytes.split_first_chunk()?;
    let offset = u64::from(u16::from_le_bytes([*low, *high]));
    // Widths up to 8, and some that no instruction has.
    let width = usize::from(what >> 3) % 10;
    let (data, rest) = rest.split_at_checked(width)?;
    let mut read = [0; 10];
    match what & 7 {
        0 | 1 => machine.bus.write_ecam(1 << 15 | offset & 0xfff, data),
        2 => machine
            .bus
            .read_ecam(1 << 15 | offset & 0xfff, &mut read[..width]),
        3..=5 => drop(machine.bus.write_memory(WINDOW + offset, data)),
        6 => drop(machine.bus.read_memory(WINDOW + offset, &mut read[..width])),
        _ => machine.interrupts.needs_reset(),
    }
    Some(rest)
}

fuzz_target!(|bytes: &[u8]| {
    let machine = Machine::new(false);
    machine.enable();
    machine.negotiate(1 << 32);
    let mut rest = bytes;
    while let Some(next) = access(&machine, rest) {
        rest = next;
    }
    // The function is still the one that it was.
    assert_eq!(machine.config(0), 0x105a_1af4);
});
