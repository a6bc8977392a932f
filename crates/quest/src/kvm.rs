//! KVM as a back end under test. Its events are eventfds.

use std::io;

use hv_kvm::Kvm;
use quest::BackEnd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// An open `/dev/kvm`.
pub(crate) struct KvmBackEnd(Kvm);

impl KvmBackEnd {
    /// Opens it; the error says what can be done about it.
    pub(crate) fn open() -> Result<Self, String> {
        match Kvm::open() {
            Ok(kvm) => Ok(Self(kvm)),
            Err(hv::Error::Call { call, source }) => {
                Err(format!("{call}: {source}{}", cure(&source)))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ". Join the group that may use it, and log in again: \
             sudo usermod --append --groups kvm \"$USER\""
        }
        io::ErrorKind::NotFound => {
            ". Enable virtualization in the firmware, or for the virtual machine that this is, \
             and load the module: sudo modprobe kvm_intel || sudo modprobe kvm_amd"
        }
        _ => "",
    }
}

impl BackEnd for KvmBackEnd {
    type Hypervisor = Kvm;

    fn hypervisor(&self) -> &Kvm {
        &self.0
    }

    fn event(&self) -> io::Result<EventFd> {
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
    }

    fn signal(&self, event: &EventFd) -> io::Result<()> {
        event.write(1)
    }

    fn take(&self, event: &EventFd) -> io::Result<bool> {
        match event.read() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
