//! What x86-64 vCPUs have.

use serde::{Deserialize, Serialize};

/// The general registers, named as the architecture names them.
#[expect(missing_docs, reason = "the architecture's manuals say what they are")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// How a vCPU begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 16-bit real mode, at the linear address `segment * 16`.
    Real {
        /// The code segment; the instruction pointer is 0.
        segment: u16,
    },
    /// 32-bit protected mode without paging, flat segments: the PVH entry
    /// (Xen, docs/misc/pvh.pandoc).
    Protected {
        /// The instruction pointer.
        rip: u32,
        /// For PVH the address of `hvm_start_info`.
        rbx: u32,
    },
    /// 64-bit mode, flat segments: the 64-bit Linux boot protocol
    /// (Documentation/arch/x86/boot.rst).
    Long {
        /// The instruction pointer.
        rip: u64,
        /// For Linux the address of `boot_params`.
        rsi: u64,
        /// The stack pointer.
        rsp: u64,
        /// The address of page tables that map the code.
        cr3: u64,
        /// Where the guest's descriptor table is and its limit, if it has one.
        gdt: (u64, u16),
    },
}
