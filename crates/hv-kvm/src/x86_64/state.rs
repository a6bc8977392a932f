//! A vCPU's state, to be saved and restored.

use hv::{Error, Result};
use kvm_bindings::{
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
    kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::msrs;
use crate::{call, memory::set_xsave};

/// Everything about a vCPU that a guest can see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VcpuState {
    version: u16,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Vec<u32>,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
}

const VERSION: u16 = 1;

pub(crate) fn save(fd: &VcpuFd, msrs: &[u32]) -> Result<VcpuState> {
    Ok(VcpuState {
        version: VERSION,
        // First: it settles what the others show (api.rst, 4.38).
        mp_state: fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?,
        regs: fd.get_regs().map_err(call("KVM_GET_REGS"))?,
        sregs: fd.get_sregs().map_err(call("KVM_GET_SREGS"))?,
        xsave: fd
            .get_xsave()
            .map_err(call("KVM_GET_XSAVE"))?
            .region
            .to_vec(),
        xcrs: fd.get_xcrs().map_err(call("KVM_GET_XCRS"))?,
        debug: fd.get_debug_regs().map_err(call("KVM_GET_DEBUGREGS"))?,
        lapic: fd.get_lapic().map_err(call("KVM_GET_LAPIC"))?,
        msrs: msrs::get(fd, msrs)?,
        events: fd.get_vcpu_events().map_err(call("KVM_GET_VCPU_EVENTS"))?,
    })
}

/// In an order in which no step undoes an earlier one: the APIC's base is among the special
/// registers, its timer among the MSRs, and pending events go last.
pub(crate) fn restore(fd: &VcpuFd, state: &VcpuState) -> Result<()> {
    if state.version != VERSION {
        return Err(Error::State("it is of another version"));
    }
    let region = state.xsave.as_slice().try_into();
    let region = region.map_err(|_| Error::State("its XSAVE area is of another size"))?;
    fd.set_regs(&state.regs).map_err(call("KVM_SET_REGS"))?;
    fd.set_sregs(&state.sregs).map_err(call("KVM_SET_SREGS"))?;
    fd.set_xcrs(&state.xcrs).map_err(call("KVM_SET_XCRS"))?;
    set_xsave(
        fd,
        &kvm_xsave {
            region,
            ..Default::default()
        },
    )?;
    fd.set_debug_regs(&state.debug)
        .map_err(call("KVM_SET_DEBUGREGS"))?;
    fd.set_lapic(&state.lapic).map_err(call("KVM_SET_LAPIC"))?;
    // One by one: a register that this KVM knows but does not let be set ends a longer list.
    for msr in &state.msrs {
        msrs::set(fd, &[*msr])?;
    }
    fd.set_vcpu_events(&state.events)
        .map_err(call("KVM_SET_VCPU_EVENTS"))?;
    fd.set_mp_state(state.mp_state)
        .map_err(call("KVM_SET_MP_STATE"))
}
