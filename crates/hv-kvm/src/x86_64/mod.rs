//! What is the CPU's own.

pub(crate) mod cpuid;
pub(crate) mod msrs;
mod segments;
pub(crate) mod state;
pub(crate) mod vcpu;
