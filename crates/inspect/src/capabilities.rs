//! Sets of capabilities.

use std::fmt::{Display, Formatter};

use policy::Policy;
use serde::{Serialize, Serializer};

/// A set of capabilities, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySet(pub u64);

/// The five sets of a thread (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// What it may do now.
    pub effective: CapabilitySet,
    /// What it may make effective.
    pub permitted: CapabilitySet,
    /// What an exec could pass on.
    pub inheritable: CapabilitySet,
    /// What an exec could give it at most.
    pub bounding: CapabilitySet,
    /// What an exec gives to a program without rights of its own.
    pub ambient: CapabilitySet,
}

impl Capabilities {
    /// The sets by their names.
    #[must_use]
    pub const fn sets(&self) -> [(&'static str, CapabilitySet); 5] {
        [
            ("effective", self.effective),
            ("permitted", self.permitted),
            ("inheritable", self.inheritable),
            ("bounding", self.bounding),
            ("ambient", self.ambient),
        ]
    }
}

impl CapabilitySet {
    /// What `policy` lets a component keep.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        Self(policy.capabilities.iter().fold(0, |set, capability| {
            set | 1_u64.checked_shl(capability.value.number()).unwrap_or(0)
        }))
    }

    /// What is here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of what is in it.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        let has = |number: &u32| self.0 & 1_u64.checked_shl(*number).unwrap_or(0) != 0;
        (0..u64::BITS).filter(has).map(name).collect()
    }
}

impl Display for CapabilitySet {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self.names().as_slice() {
            [] => f.write_str("none"),
            // All that there are, in no jail.
            names if names.len() >= NAMES.len() => f.write_str("all"),
            names => f.write_str(&names.join(" ")),
        }
    }
}

impl Serialize for CapabilitySet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.names().serialize(serializer)
    }
}

fn name(number: u32) -> String {
    let known = usize::try_from(number).ok().and_then(|at| NAMES.get(at));
    known.map_or_else(|| format!("number-{number}"), |name| (*name).to_owned())
}

/// Every capability, by its number (`linux/capability.h`).
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

#[cfg(test)]
mod tests {
    use policy::Capability;

    use super::*;

    #[test]
    fn names_are_those_of_the_policies() {
        let all = [
            Capability::Chown,
            Capability::DacOverride,
            Capability::DacReadSearch,
            Capability::Fowner,
            Capability::Fsetid,
            Capability::Setgid,
            Capability::Setuid,
            Capability::Mknod,
            Capability::Setfcap,
        ];
        for capability in all {
            assert_eq!(name(capability.number()), capability.name());
        }
        assert_eq!(name(63), "number-63");
    }

    #[test]
    fn a_set_is_printed_by_names() {
        assert_eq!(CapabilitySet(0).to_string(), "none");
        assert_eq!(CapabilitySet(1 << 21 | 1).to_string(), "chown sys_admin");
        assert_eq!(CapabilitySet((1 << 41) - 1).to_string(), "all");
    }
}
