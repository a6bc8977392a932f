//! The layers of a jail, and how a test leaves one out.
//!
//! What is in the policy is left out by another policy; the rest needs the feature `test-layers`.

use policy::{Identity, Instruction, Namespace, Policy};
use serde::{Deserialize, Serialize};

/// What may stop an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Layer {
    /// The filter of system calls.
    Seccomp,
    /// The namespaces but those of users and mounts, which other layers are made of.
    Namespaces,
    /// The empty root directory.
    Root,
    /// The directory that `dev-fs` serves is a mount of its own.
    Subtree,
    /// Dropped capabilities, and the locks on them.
    Capabilities,
    /// Landlock.
    Landlock,
    /// Resource limits.
    Limits,
    /// The user namespace: capabilities in it count for nothing outside. Never left out.
    User,
    /// The closed list of descriptors: there is none that it would work on. Never left out.
    Descriptors,
    /// The kernel refuses this to every process, or to every process of the kind. Never left out.
    Kernel,
}

impl Layer {
    /// Those that a test can leave out.
    pub(crate) const OPTIONAL: [Self; 7] = [
        Self::Seccomp,
        Self::Namespaces,
        Self::Root,
        Self::Subtree,
        Self::Capabilities,
        Self::Landlock,
        Self::Limits,
    ];

    /// Those that it cannot.
    pub(crate) const FIXED: [Self; 3] = [Self::User, Self::Descriptors, Self::Kernel];

    /// Whether this build can leave it out.
    pub(crate) fn is_optional(self) -> bool {
        let inside = matches!(self, Self::Root | Self::Capabilities | Self::Landlock);
        Self::OPTIONAL.contains(&self) && (!inside || cfg!(feature = "test-layers"))
    }

    /// Its name, in a text.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Namespaces => "namespaces",
            Self::Root => "empty root",
            Self::Subtree => "subtree",
            Self::Capabilities => "capabilities",
            Self::Landlock => "Landlock",
            Self::Limits => "limits",
            Self::User => "user namespace",
            Self::Descriptors => "descriptors",
            Self::Kernel => "kernel",
        }
    }
}

/// A filter that allows everything: `BPF_RET | BPF_K` with `SECCOMP_RET_ALLOW`.
const ALLOW_ALL: [Instruction; 1] = [Instruction {
    code: 0x06,
    jt: 0,
    jf: 0,
    k: 0x7fff_0000,
}];

/// The policy of `component` without what `without` names of it. It is never freed.
pub(crate) fn policy(component: &str, without: &[Layer]) -> Option<&'static Policy> {
    let policy = policy::component(component)?;
    if without.is_empty() {
        return Some(policy);
    }
    let mut weaker = Policy { ..*policy };
    if without.contains(&Layer::Seccomp) {
        weaker.refuse = &ALLOW_ALL;
        weaker.allow = &ALLOW_ALL;
    }
    if without.contains(&Layer::Limits) {
        weaker.limits = &[];
    }
    if without.contains(&Layer::Namespaces) {
        let mut kept = policy.namespaces.to_vec();
        kept.retain(|line| matches!(line.value, Namespace::User | Namespace::Mount));
        weaker.namespaces = kept.leak();
    }
    Some(Box::leak(Box::new(weaker)))
}

/// Has the inside half leave out what `without` names of it.
#[cfg(feature = "test-layers")]
pub(crate) fn leave_out(without: &[Layer]) {
    for layer in without {
        match layer {
            Layer::Root => jailer::leave_out(jailer::Layer::Root),
            Layer::Capabilities => jailer::leave_out(jailer::Layer::Capabilities),
            Layer::Landlock => jailer::leave_out(jailer::Layer::Landlock),
            _ => {}
        }
    }
}

/// Nothing: this build cannot.
#[cfg(not(feature = "test-layers"))]
pub(crate) fn leave_out(_: &[Layer]) {}

/// Whether a component under `policy` has many users here.
pub(crate) fn has_many_users(policy: &Policy) -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    policy.identity.value == Identity::All
        && map
            .split_whitespace()
            .nth(2)
            .is_some_and(|count| count != "1")
}
