//! The KVM back end (Documentation/virt/kvm/api.rst).
//!
//! `unsafe` is in three small modules: [`kick`](mod@kick) (the shared page of a vCPU, and signals),
//! [`memory`](mod@memory) (handing a mapping to the kernel) and [`exit`](mod@exit) (a union that
//! the kernel filled).

#![deny(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(clippy::arithmetic_side_effects, reason = "a test fails by panicking")
)]

mod exit;
mod interrupts;
mod kick;
mod memory;
mod probe;
mod vm;
mod x86_64;

use std::{fs::OpenOptions, io, os::fd::OwnedFd};

use hv::{Error, Hypervisor, Result};
use kvm_ioctls::Cap;

pub use interrupts::IrqfdMsi;
pub use kick::KvmKicker;
pub use probe::{Host, may_be_emulated, probe};
pub use vm::{Ioeventfd, KvmVm, VmState};
pub use x86_64::{state::VcpuState, vcpu::KvmVcpu};

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm(kvm_ioctls::Kvm);

/// What machines cannot do without.
const NEEDED: [(Cap, &str); 5] = [
    (
        Cap::Irqchip,
        "in-kernel interrupt controller (KVM_CAP_IRQCHIP)",
    ),
    (Cap::Ioeventfd, "ioeventfd (KVM_CAP_IOEVENTFD)"),
    (Cap::Irqfd, "irqfd (KVM_CAP_IRQFD)"),
    (Cap::SignalMsi, "MSI injection (KVM_CAP_SIGNAL_MSI)"),
    (
        Cap::ImmediateExit,
        "immediate exit (KVM_CAP_IMMEDIATE_EXIT)",
    ),
];

impl Kvm {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`Error::Call`] with the system's reason, [`Error::Missing`] if KVM is too old.
    pub fn open() -> Result<Self> {
        let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let file = opened.map_err(|source| Error::Call {
            call: "open(/dev/kvm)",
            source,
        })?;
        Self::from_fd(file.into())
    }

    /// Takes a `/dev/kvm` that was opened for reading and writing elsewhere.
    ///
    /// # Errors
    /// [`Error::Missing`] if KVM is too old, or the file is not `/dev/kvm`.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let kvm = memory::adopt_kvm(fd);
        // The version is fixed since Linux 2.6.22 (api.rst, 4.1).
        if kvm.get_api_version() != 12 {
            return Err(Error::Missing("KVM interface of version 12"));
        }
        for (capability, name) in NEEDED {
            if !kvm.check_extension(capability) {
                return Err(Error::Missing(name));
            }
        }
        Ok(Self(kvm))
    }
}

impl Hypervisor for Kvm {
    type Vm = KvmVm;

    fn create_vm(&self) -> Result<KvmVm> {
        KvmVm::new(&self.0)
    }
}

/// The error of a failed KVM call.
fn call(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |errno| Error::Call {
        call,
        source: io::Error::from_raw_os_error(errno.errno()),
    }
}
