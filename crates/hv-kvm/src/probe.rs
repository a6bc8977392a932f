//! What kind of KVM this host has.
//!
//! Some KVMs run a guest's user mode on the CPU but emulate its kernel mode, and cannot emulate
//! all of it: `KVM_CREATE_VM` succeeds and Linux dies. A micro-guest finds out: in 64-bit kernel
//! mode it executes what Linux does and such emulators lack.

use std::{fs, io, sync::Arc, thread, time::Duration};

use hv::{
    Exit, Hypervisor, Kicker, RamOptions, Vcpu, Vm,
    x86_64::{Entry, Registers},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use crate::Kvm;

/// The kinds of host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The CPU runs guests: stock kernels boot.
    Native,
    /// Kernel mode is emulated, in part.
    Emulated {
        /// What showed it.
        why: String,
    },
    /// There is no KVM.
    Absent {
        /// What was missing.
        why: String,
    },
    /// This user may not use it.
    Denied {
        /// The system's reason.
        why: String,
    },
}

/// Finds out what kind of host this is. It takes a few milliseconds, and never more than two
/// seconds.
#[must_use]
pub fn probe() -> Host {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(hv::Error::Call { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Host::Denied {
                why: format!("/dev/kvm: {source}"),
            };
        }
        Err(hv::Error::Call { source, .. }) => {
            return Host::Absent {
                why: format!("/dev/kvm: {source}"),
            };
        }
        Err(error) => {
            return Host::Absent {
                why: error.to_string(),
            };
        }
    };
    match run(&kvm) {
        Ok(Verdict::Ran) => Host::Native,
        Ok(Verdict::Failed(what)) => Host::Emulated {
            why: format!("{what}{}", hint()),
        },
        Err(error) => Host::Absent {
            why: error.to_string(),
        },
    }
}

/// Whether it is worth the time to [`probe`]: the CPU shows no virtualization of its own.
#[must_use]
pub fn may_be_emulated() -> bool {
    // Where the file cannot be read, or has no flags, nothing speaks for it.
    let Ok(text) = fs::read_to_string("/proc/cpuinfo") else {
        return false;
    };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags"));
    flags.is_some_and(|flags| !flags.split_whitespace().any(|f| matches!(f, "vmx" | "svm")))
}

/// For the message only.
fn hint() -> &'static str {
    if fs::exists("/sys/module/kvm_pvm").unwrap_or(false) {
        " (it is KVM over PVM, which emulates a guest's kernel mode)"
    } else if may_be_emulated() {
        " (the CPU has neither VMX nor SVM)"
    } else {
        ""
    }
}

enum Verdict {
    Ran,
    Failed(String),
}

const CODE: u64 = 0x1000;
const SCRATCH: u64 = 0x2000;
const TABLES: u64 = 0x4000;
const SIZE: usize = 0x1_0000;
const PORT: u16 = 0x80;

/// What Linux executes in kernel mode and an emulator may lack.
const GUEST: &[u8] = &[
    // PAE, OSFXSR and OSXMMEXCPT: without the second, SSE is undefined on every CPU.
    0xb8, 0x20, 0x06, 0x00, 0x00, // mov eax, 0x620
    0x0f, 0x22, 0xe0, // mov cr4, rax
    0x0f, 0x57, 0xc0, // xorps xmm0, xmm0
    0x66, 0x48, 0x0f, 0x7e, 0xc0, // movq rax, xmm0
    0xf0, 0x48, 0x0f, 0xc7, 0x0f, // lock cmpxchg16b [rdi]
    0x8a, 0x07, // mov al, [rdi]
    0xe6, 0x80, // out 0x80, al
    0xf4, // hlt
];

fn run(kvm: &Kvm) -> hv::Result<Verdict> {
    let vm = kvm.create_vm()?;
    let memory = |source| hv::Error::Call {
        call: "mmap",
        source,
    };
    let region = GuestRegionMmap::from_range(GuestAddress(0), SIZE, None)
        .map_err(|error| memory(io::Error::other(error)))?;
    for (address, bytes) in [(CODE, GUEST), (TABLES, &page_tables())] {
        region
            .write_slice(bytes, MemoryRegionAddress(address))
            .map_err(|error| memory(io::Error::other(error)))?;
    }
    debug_assert_eq!(region.len(), SIZE as u64);
    vm.add_ram(Arc::new(region), RamOptions::default())?;
    let mut vcpu = vm.create_vcpu(0, 1)?;
    vcpu.set_entry(&Entry::Long {
        rip: CODE,
        rsi: 0,
        rsp: SCRATCH,
        cr3: TABLES,
        gdt: (0, 0),
    })?;
    let registers = vcpu.registers()?;
    vcpu.set_registers(&Registers {
        rdi: SCRATCH,
        ..registers
    })?;
    // An emulator that gets stuck must not take us with it.
    let kicker = vcpu.kicker();
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(2));
        kicker.kick();
    });
    let verdict = match vcpu.run()? {
        Exit::PioWrite { port: PORT, .. } => return Ok(Verdict::Ran),
        Exit::Interrupted => "its kernel mode got stuck".to_owned(),
        Exit::EmulationFailure => {
            let failure = vcpu.emulation_failure()?;
            format!("it could not emulate {failure} in kernel mode")
        }
        exit => format!("kernel mode ended in {exit:?}"),
    };
    Ok(Verdict::Failed(verdict))
}

/// The first 2 MiB, mapped to themselves: a table of each of three levels in a page of its own.
fn page_tables() -> Vec<u8> {
    /// Present and writable; and for the last, a large page.
    const TABLE: u64 = 3;
    const LARGE: u64 = 0x83;
    let entries = [(TABLES + 0x1000) | TABLE, (TABLES + 0x2000) | TABLE, LARGE];
    let page = |entry: u64| {
        let mut page = vec![0; 0x1000];
        page.splice(..8, entry.to_le_bytes());
        page
    };
    entries.into_iter().flat_map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_of_some_kind_and_the_message_says_why() {
        match probe() {
            Host::Native => assert!(!may_be_emulated(), "native, but it looks emulated"),
            Host::Emulated { why } => {
                assert!(why.contains("kernel mode"), "{why}");
                assert!(
                    may_be_emulated(),
                    "emulated, but it does not look it: {why}"
                );
            }
            Host::Absent { why } | Host::Denied { why } => {
                assert!(!why.is_empty());
                println!("no KVM here: {why}");
            }
        }
    }
}
