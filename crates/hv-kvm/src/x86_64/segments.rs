//! Segment and control registers at a vCPU's entry.

use hv::x86_64::Entry;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

/// Control register bits (SDM volume 3, 2.5).
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// `IA32_EFER`: long mode enabled and active.
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// The bit that is always one.
const RFLAGS: u64 = 2;

/// Segment types (SDM volume 3, 3.4.5.1 and 3.5): code, data, busy TSS.
const CODE: u8 = 0xb;
const DATA: u8 = 3;
const TSS: u8 = 0xb;

/// Writes into the registers of a vCPU after reset how it is to begin.
pub(crate) fn enter(entry: &Entry, regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
    *regs = kvm_regs {
        rflags: RFLAGS,
        ..Default::default()
    };
    match *entry {
        Entry::Real { segment } => {
            sregs.cs.selector = segment;
            sregs.cs.base = u64::from(segment) << 4;
        }
        Entry::Protected { rip, rbx } => {
            flat(sregs, false);
            sregs.cr0 = CR0_PE | CR0_ET;
            regs.rip = rip.into();
            regs.rbx = rbx.into();
        }
        Entry::Long {
            rip,
            rsi,
            rsp,
            cr3,
            gdt,
        } => {
            flat(sregs, true);
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.cr3 = cr3;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME_LMA;
            (sregs.gdt.base, sregs.gdt.limit) = gdt;
            (regs.rip, regs.rsi, regs.rsp) = (rip, rsi, rsp);
        }
    }
}

/// Segments that cover everything: `__BOOT_CS` and `__BOOT_DS` of Linux.
fn flat(sregs: &mut kvm_sregs, long: bool) {
    let all = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 0x10,
        type_: CODE,
        db: u8::from(!long),
        l: u8::from(long),
        ..all
    };
    let data = kvm_segment {
        selector: 0x18,
        type_: DATA,
        db: 1,
        ..all
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        selector: 0x20,
        type_: TSS,
        limit: 0x67,
        present: 1,
        ..Default::default()
    };
}
