//! Model-specific registers.

use hv::{Error, Result};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::call;

/// `IA32_MISC_ENABLE` (SDM volume 4, table 2-2): fast strings, which Linux asks for.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);

/// `IA32_MTRR_DEF_TYPE` (SDM volume 3, 11.11.2.1): enabled, write back. Linux goes without page
/// attributes where memory types are off.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Sets what firmware would have set.
pub(crate) fn set_boot(vcpu: &VcpuFd) -> Result<()> {
    for (index, data) in [MISC_ENABLE, MTRR_DEF_TYPE] {
        // An emulated KVM may lack one; a guest that needs it will say so.
        set(vcpu, &[(index, data)])?;
    }
    Ok(())
}

/// Sets registers up to the first that KVM refuses, and tells how many that were.
pub(crate) fn set(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<usize> {
    let entry = |(index, data): &(u32, u64)| kvm_msr_entry {
        index: *index,
        data: *data,
        ..Default::default()
    };
    let entries: Vec<_> = values.iter().map(entry).collect();
    let entries = Msrs::from_entries(&entries).map_err(|_| Error::Missing("room for MSRs"))?;
    vcpu.set_msrs(&entries).map_err(call("KVM_SET_MSRS"))
}

/// The numbers of all that a saved vCPU consists of.
pub(crate) fn saved(kvm: &Kvm) -> Result<Vec<u32>> {
    let list = kvm
        .get_msr_index_list()
        .map_err(call("KVM_GET_MSR_INDEX_LIST"))?;
    Ok(list.as_slice().to_vec())
}

/// The values of those of `indexes` that this vCPU has.
pub(crate) fn get(vcpu: &VcpuFd, indexes: &[u32]) -> Result<Vec<(u32, u64)>> {
    let mut values = Vec::with_capacity(indexes.len());
    for index in indexes {
        let entry = kvm_msr_entry {
            index: *index,
            ..Default::default()
        };
        let mut one = Msrs::from_entries(&[entry]).map_err(|_| Error::Missing("room for MSRs"))?;
        // KVM lists some that depend on features which this vCPU has not.
        if let Ok(1) = vcpu.get_msrs(&mut one)
            && let Some(entry) = one.as_slice().first()
        {
            values.push((entry.index, entry.data));
        }
    }
    Ok(values)
}
