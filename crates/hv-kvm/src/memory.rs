//! What is handed to the kernel by address or number.

#![expect(
    unsafe_code,
    reason = "the kernel is given the address of a mapping, and a descriptor by number"
)]

use std::{
    collections::BTreeMap,
    os::fd::{FromRawFd, IntoRawFd, OwnedFd},
    sync::Arc,
};

use hv::{Error, RamOptions, RamSlot, Result};
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

use crate::call;

/// Takes over an open `/dev/kvm`.
pub(crate) fn adopt_kvm(fd: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is open and owned, and ownership passes on. That it is /dev/kvm is
    // not a matter of memory safety, and is checked by the caller.
    unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) }
}

/// The pieces of a machine's memory.
#[derive(Debug, Default)]
pub(crate) struct Ram(BTreeMap<u32, (Arc<GuestRegionMmap>, RamOptions)>);

impl Ram {
    pub(crate) fn add(
        &mut self,
        vm: &VmFd,
        region: Arc<GuestRegionMmap>,
        options: RamOptions,
    ) -> Result<RamSlot> {
        let next = self
            .0
            .last_key_value()
            .map_or(Some(0), |(slot, _)| slot.checked_add(1));
        let slot = next.ok_or(Error::Missing("memory slot left"))?;
        set(vm, slot, &region, options, region.len())?;
        self.0.insert(slot, (region, options));
        Ok(RamSlot(slot))
    }

    pub(crate) fn remove(&mut self, vm: &VmFd, slot: RamSlot) -> Result<()> {
        let (region, options) = self
            .0
            .get(&slot.0)
            .ok_or(Error::Missing("such memory slot"))?;
        // A size of zero deletes the slot (api.rst, 4.35).
        set(vm, slot.0, region, *options, 0)?;
        self.0.remove(&slot.0);
        Ok(())
    }

    pub(crate) fn dirty_pages(&self, vm: &VmFd, slot: RamSlot) -> Result<Vec<u64>> {
        let (region, _) = self
            .0
            .get(&slot.0)
            .ok_or(Error::Missing("such memory slot"))?;
        let size =
            usize::try_from(region.len()).map_err(|_| Error::Missing("memory of that size"))?;
        vm.get_dirty_log(slot.0, size)
            .map_err(call("KVM_GET_DIRTY_LOG"))
    }
}

fn set(
    vm: &VmFd,
    slot: u32,
    region: &GuestRegionMmap,
    options: RamOptions,
    size: u64,
) -> Result<()> {
    let flag = |on, flag| if on { flag } else { 0 };
    let flags = flag(options.read_only, KVM_MEM_READONLY)
        | flag(options.log_writes, KVM_MEM_LOG_DIRTY_PAGES);
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: vm_memory::Address::raw_value(&region.start_addr()),
        memory_size: size,
        userspace_addr: region.as_ptr().addr() as u64,
    };
    // SAFETY: the address and the size are those of a mapping that `Ram` owns a share of. It gives
    // that up only after the slot has been deleted, or when nobody can run the guest any more:
    // each vCPU shares `Ram` and drops its descriptor first.
    unsafe { vm.set_user_memory_region(region) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))
}

/// Sets a vCPU's floating point and vector state.
pub(crate) fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<()> {
    // SAFETY: the kernel reads the 4096 bytes of the struct. It reads more only where the process
    // has asked for dynamically enabled features (arch_prctl(2), ARCH_REQ_XCOMP_GUEST_PERM), which
    // nothing in this crate does.
    unsafe { vcpu.set_xsave(xsave) }.map_err(call("KVM_SET_XSAVE"))
}
