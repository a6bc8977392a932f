//! Guests that take interrupts.

use hv::{Address, Msi, Vcpu};

use crate::{
    BackEnd, Failure, Stop, VmOf,
    cpu::Cpu,
    failure::Result,
    machine::{CODE, DONE, Machine, machine},
};

/// The vector that the handler is at.
const VECTOR: u8 = 0x40;

/// An MSI of that vector, fixed, edge, to APIC 0 (SDM volume 3, 11.11).
pub(super) const MESSAGE: Msi = Msi {
    address: 0xfee0_0000,
    data: 0x40,
};

/// Loads the descriptor tables and enables the APIC.
const SET_UP: &[u8] = &[
    0x0f, 0x01, 0x15, 0x10, 0x9f, 0x00, 0x00, // 1000: lgdt [0x9f10]
    0x0f, 0x01, 0x1d, 0x00, 0x9f, 0x00, 0x00, // 1007: lidt [0x9f00]
    0xbc, 0x00, 0x70, 0x00, 0x00, // 100e: mov esp, 0x7000
    0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00,
    0x00, // 1013: mov dword [0xfee000f0], 0x1ff
];

/// Counts, ends the interrupt, and returns; by hand, for there are emulators without `iret`.
const HANDLER: &[u8] = &[
    0xff, 0x05, 0x00, 0x20, 0x00, 0x00, // 1800: inc dword [0x2000]
    0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0x00, 0x00, 0x00,
    0x00, // 1806: mov dword [0xfee000b0], 0x0
    0xff, 0x74, 0x24, 0x08, // 1810: push dword [esp+0x8]
    0x9d, // 1814: popf
    0xc2, 0x08, 0x00, // 1815: ret 0x8
];

const HANDLER_AT: u16 = 0x1800;
const IDT: u32 = 0x9000;
const GDT: u32 = 0x9800;
/// Flat code at 0x10 and data at 0x18, as the entry has them (SDM volume 3, 3.4.5).
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Operands of `lidt` and `lgdt`: a limit, and a base.
const IDT_POINTER: u64 = 0x9f00;
const GDT_POINTER: u64 = 0x9f10;

/// Tells how many interrupts it had, again and again, with interrupts on.
pub(super) const POLL: &[u8] = &[
    0xfb, // 101d: sti
    0xa1, 0x00, 0x20, 0x00, 0x00, // 101e: mov eax, [0x2000]
    0xe7, 0xf4, // 1023: out 0xf4, eax
    0xeb, 0xf7, // 1025: jmp 0x101e
];

/// A machine whose guest can be interrupted: `body` begins at 0x101d.
pub(super) fn interruptible<B: BackEnd>(back_end: &B, body: &[u8]) -> Result<Machine<VmOf<B>>> {
    let machine = machine(back_end, SET_UP)?;
    machine.write(CODE + 0x1d, body)?;
    machine.write(HANDLER_AT.into(), HANDLER)?;
    let at = |base: u32, entry: u64| u64::from(base) + 8 * entry;
    for (index, descriptor) in (0..).zip(DESCRIPTORS) {
        machine.write(at(GDT, index), &descriptor.to_le_bytes())?;
    }
    // A 32-bit interrupt gate (SDM volume 3, 6.11).
    let gate = 0x8e00_0010_0000 | u64::from(HANDLER_AT);
    machine.write(at(IDT, VECTOR.into()), &gate.to_le_bytes())?;
    for (pointer, limit, base) in [(IDT_POINTER, 0x7ff_u16, IDT), (GDT_POINTER, 0x1f, GDT)] {
        machine.write(pointer, &limit.to_le_bytes())?;
        machine.write(pointer + 2, &base.to_le_bytes())?;
    }
    Ok(machine)
}

/// How many interrupts a guest that ends a round so had.
pub(super) fn count<V: Vcpu>(cpu: &mut Cpu<V>) -> Result<u32> {
    let found = cpu.step(&mut std::iter::empty())?;
    if let Stop::Write { at, data } = &found
        && *at == Address::Pio(DONE)
        && let Ok(bytes) = data.as_slice().try_into()
    {
        return Ok(u32::from_le_bytes(bytes));
    }
    let wanted = "a write of the number of interrupts".to_owned();
    Err(Failure::Stop { found, wanted })
}

/// Polls until the guest had an interrupt; then that it had no other.
pub(super) fn one_arrives<V: Vcpu>(cpu: &mut Cpu<V>, before: u32) -> Result<()> {
    while count(cpu)? == before {}
    none_arrives(cpu, before + 1)
}

/// Polls for a while; the guest has had `before` interrupts and gets none.
pub(super) fn none_arrives<V: Vcpu>(cpu: &mut Cpu<V>, before: u32) -> Result<()> {
    for _ in 0..10 {
        crate::failure::same("the number of interrupts", &count(cpu)?, &before)?;
    }
    Ok(())
}
