//! What the kernel left in the shared page after an internal error.

#![expect(
    unsafe_code,
    reason = "the kernel fills a union, and says which field elsewhere"
)]

use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_EMULATION};
use kvm_ioctls::VcpuFd;

/// That the bytes are there (`KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`).
const HAS_BYTES: u64 = 1;

/// The bytes of the instruction that KVM could not emulate, as far as it tells (api.rst, 5,
/// `emulation_failure`).
pub(crate) fn instruction_bytes(vcpu: &mut VcpuFd) -> Vec<u8> {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return Vec::new();
    }
    // SAFETY: `emulation_failure` is the union's field for this exit reason and suberror, and its
    // first two fields are laid out as those of `internal`. All are plain numbers, so whatever
    // the kernel wrote is a value of their types.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    if failure.suberror != KVM_INTERNAL_ERROR_EMULATION
        || failure.ndata == 0
        || failure.flags & HAS_BYTES == 0
    {
        return Vec::new();
    }
    // SAFETY: as above; it is a union of one struct.
    let data = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let length = usize::from(data.insn_size).min(data.insn_bytes.len());
    data.insn_bytes.get(..length).unwrap_or_default().to_vec()
}
