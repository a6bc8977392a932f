//! What each component may do, and why.
//!
//! The tables are in `policies/`, one file a component, every line with its reason; they are
//! checked and their system-call filters compiled when this crate is built. What a table does not
//! list is forbidden. A [`Policy`] prints itself as a readable table.

#![forbid(unsafe_code)]

mod table;
mod words;

pub use words::{Capability, Identity, Namespace, Proc, Resource};

include!(concat!(env!("OUT_DIR"), "/policies.rs"));

/// Something that is granted or imposed, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reasoned<T> {
    /// What.
    pub value: T,
    /// Why.
    pub why: &'static str,
}

/// The most of a resource that a component may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Of what.
    pub resource: Resource,
    /// How much, in the resource's own unit (see `setrlimit(2)`).
    pub most: u64,
}

/// A system call that does not end the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: u32,
    /// The alternatives that its arguments must match one of; none if they do not matter.
    pub when: &'static [&'static str],
    /// The error that it always returns; none if it is carried out.
    pub error: Option<&'static str>,
}

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Everything that one component may do.
#[derive(Debug)]
pub struct Policy {
    /// Its name, as in `crumble-NAME`.
    pub component: &'static str,
    /// What it is for.
    pub summary: &'static str,
    /// Which of the host's users it is.
    pub identity: Reasoned<Identity>,
    /// What it sees of `/proc`; nothing, if none.
    pub proc: Option<Reasoned<Proc>>,
    /// The version of Landlock below which it does not start.
    pub landlock_floor: Reasoned<u32>,
    /// Namespaces of its own.
    pub namespaces: &'static [Reasoned<Namespace>],
    /// Namespaces that it shares with the host.
    pub shared: &'static [Reasoned<Namespace>],
    /// Capabilities in its user namespace that it keeps.
    pub capabilities: &'static [Reasoned<Capability>],
    /// Resource limits.
    pub limits: &'static [Reasoned<Limit>],
    /// System calls that do not end the process, in alphabetical order.
    pub calls: &'static [Reasoned<Call>],
    /// The filter that answers calls with an error. To be installed first.
    pub refuse: &'static [Instruction],
    /// The filter that ends the process for whatever is not in [`Policy::calls`].
    pub allow: &'static [Instruction],
}

/// The policy of the component called `name`.
#[must_use]
pub fn component(name: &str) -> Option<&'static Policy> {
    all()
        .iter()
        .find(|policy| policy.component == name)
        .copied()
}

/// Every policy.
#[must_use]
pub fn all() -> &'static [&'static Policy] {
    ALL
}
