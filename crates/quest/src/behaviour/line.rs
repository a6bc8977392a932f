//! An input of the I/O APIC, edge-triggered: COM1's.

use hv::Vm;

use super::interrupts::{POLL, interruptible, none_arrives, one_arrives};
use crate::{BackEnd, failure::Result};

/// Routes input 4 to the handler's vector of APIC 0 (82093AA, 3.2.4).
const ROUTE: &[u8] = &[
    0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x18, 0x00, 0x00, 0x00, // 101d: mov dword [0xfec00000], 0x18
    0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x40, 0x00, 0x00, 0x00, // 1027: mov dword [0xfec00010], 0x40
    0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x19, 0x00, 0x00, 0x00, // 1031: mov dword [0xfec00000], 0x19
    0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x00, 0x00, 0x00, 0x00, // 103b: mov dword [0xfec00010], 0x0
];

pub(super) fn run<B: BackEnd>(back_end: &B) -> Result<()> {
    let guest: Vec<u8> = ROUTE.iter().chain(POLL).copied().collect();
    let machine = interruptible(back_end, &guest)?;
    let event = back_end.event()?;
    machine.vm.line_event(4, &event)?;
    let mut cpu = machine.protected()?;
    none_arrives(&mut cpu, 0)?;
    for before in 0..3 {
        back_end.signal(&event)?;
        one_arrives(&mut cpu, before)?;
    }
    Ok(())
}
