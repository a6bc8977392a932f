//! The part of the `capng` crate's API that virtiofsd's library calls, without libcap-ng.
//!
//! The registry's `capng` links a C library, which a static binary would have to bring along.
//! virtiofsd needs little of it: to switch one capability of the calling thread off and on again
//! around a file operation, so that the kernel clears set-user-id and set-group-id bits as it
//! would for the guest's own process. That is two system calls, capget and capset.
//!
//! Updates collect in the calling thread until [`apply`], as they do in libcap-ng; unlike there,
//! every collection starts from what the kernel says, never from what was true earlier.

#![forbid(unsafe_code)]

use std::cell::Cell;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// A capability's number, as in `linux/capability.h`.
pub type Capability = u32;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The thread's capabilities could not be read.
    #[error("cannot read the capabilities of this thread")]
    GetProcessCapabilities(#[source] rustix::io::Errno),
    /// The kernel refused the new capabilities: one of them is not in the permitted set.
    #[error("cannot change the capabilities of this thread")]
    ApplyCapabilities(#[source] rustix::io::Errno),
    /// No capability has this number.
    #[error("there is no capability number {0}")]
    UpdateCapability(Capability),
    /// No capability of this crate's table has the name.
    #[error("unknown capability name")]
    GetCapabilityId,
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Whether an update sets or clears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Clear the capability.
    DROP,
    /// Set the capability.
    ADD,
}

/// Which of a thread's sets an update changes. A plain constant, not a set of flags: nobody here
/// updates two sets at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// What the kernel checks.
    EFFECTIVE,
    /// What the effective set may be raised to.
    PERMITTED,
    /// What survives an exec.
    INHERITABLE,
}

/// Which sets of the process [`clear`] and [`apply`] are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// Effective, permitted and inheritable.
    CAPS,
    /// The same here: the bounding set is the jailer's work, not this crate's.
    BOTH,
}

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CUpdate {
    /// Set or clear.
    pub action: Action,
    /// In which set.
    pub cap_type: Type,
    /// Which capability.
    pub capability: Capability,
}

/// The names that virtiofsd asks for, without `CAP_`, and their sets of one.
const NAMES: [(&str, CapabilitySet); 9] = [
    ("CHOWN", CapabilitySet::CHOWN),
    ("DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("DAC_READ_SEARCH", CapabilitySet::DAC_READ_SEARCH),
    ("FOWNER", CapabilitySet::FOWNER),
    ("FSETID", CapabilitySet::FSETID),
    ("SETGID", CapabilitySet::SETGID),
    ("SETUID", CapabilitySet::SETUID),
    ("MKNOD", CapabilitySet::MKNOD),
    ("SETFCAP", CapabilitySet::SETFCAP),
];

thread_local! {
    /// Changes that were asked for and not yet applied.
    static PENDING: Cell<Option<CapabilitySets>> = const { Cell::new(None) };
}

/// The number of the capability called `name`, without its `CAP_` prefix and in capitals.
///
/// # Errors
/// [`Error::GetCapabilityId`] for a name that file serving has no use for.
pub fn name_to_capability(name: &str) -> Result<Capability> {
    let (_, set) = NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or(Error::GetCapabilityId)?;
    Ok(set.bits().trailing_zeros())
}

/// Forgets pending changes and takes the calling thread's capabilities from the kernel.
///
/// # Errors
/// [`Error::GetProcessCapabilities`].
pub fn get_caps_process() -> Result<()> {
    PENDING.set(Some(current()?));
    Ok(())
}

/// Makes every set empty, pending [`apply`].
pub fn clear(_set: Set) {
    PENDING.set(Some(CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    }));
}

/// Records changes to the calling thread's capabilities; [`apply`] makes them true.
///
/// # Errors
/// [`Error::UpdateCapability`] for a number over 63, [`Error::GetProcessCapabilities`].
pub fn update(updates: Vec<CUpdate>) -> Result<()> {
    let mut sets = match PENDING.get() {
        Some(sets) => sets,
        None => current()?,
    };
    for change in updates {
        let bit = 1u64
            .checked_shl(change.capability)
            .map(CapabilitySet::from_bits_retain)
            .ok_or(Error::UpdateCapability(change.capability))?;
        let set = match change.cap_type {
            Type::EFFECTIVE => &mut sets.effective,
            Type::PERMITTED => &mut sets.permitted,
            Type::INHERITABLE => &mut sets.inheritable,
        };
        set.set(bit, change.action == Action::ADD);
    }
    PENDING.set(Some(sets));
    Ok(())
}

/// Makes the recorded changes true for the calling thread. Without any it does nothing.
///
/// # Errors
/// [`Error::ApplyCapabilities`]; the changes are forgotten then too.
pub fn apply(_set: Set) -> Result<()> {
    match PENDING.take() {
        Some(sets) => set_capabilities(None, sets).map_err(Error::ApplyCapabilities),
        None => Ok(()),
    }
}

/// Whether the calling thread has `capability` in its set `which` now. False if that cannot be
/// found out.
#[must_use]
pub fn have_capability(which: Type, capability: Capability) -> bool {
    let Some(bit) = 1u64.checked_shl(capability) else {
        return false;
    };
    current().is_ok_and(|sets| {
        let set = match which {
            Type::EFFECTIVE => sets.effective,
            Type::PERMITTED => sets.permitted,
            Type::INHERITABLE => sets.inheritable,
        };
        set.bits() & bit != 0
    })
}

fn current() -> Result<CapabilitySets> {
    capabilities(None).map_err(Error::GetProcessCapabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(action: Action, capability: Capability) -> Vec<CUpdate> {
        vec![CUpdate {
            action,
            cap_type: Type::EFFECTIVE,
            capability,
        }]
    }

    #[test]
    fn names_have_the_numbers_of_the_kernels_header() {
        assert_eq!(name_to_capability("CHOWN"), Ok(0));
        assert_eq!(name_to_capability("DAC_OVERRIDE"), Ok(1));
        assert_eq!(name_to_capability("FSETID"), Ok(4));
        assert_eq!(name_to_capability("SETFCAP"), Ok(31));
        assert_eq!(name_to_capability("CAP_CHOWN"), Err(Error::GetCapabilityId));
    }

    #[test]
    fn a_number_beyond_the_sets_is_refused() {
        let error = update(change(Action::DROP, 64)).unwrap_err();
        assert_eq!(error, Error::UpdateCapability(64));
        assert!(!have_capability(Type::EFFECTIVE, 64));
    }

    #[test]
    fn what_is_not_permitted_cannot_be_added_and_is_then_forgotten() {
        // In a thread of its own: it gives up everything.
        std::thread::spawn(|| {
            clear(Set::BOTH);
            apply(Set::BOTH).unwrap();
            assert!(!have_capability(Type::EFFECTIVE, 4));
            update(change(Action::ADD, 4)).unwrap();
            assert!(matches!(
                apply(Set::CAPS),
                Err(Error::ApplyCapabilities(rustix::io::Errno::PERM))
            ));
            assert_eq!(apply(Set::CAPS), Ok(()), "nothing is pending any more");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn dropping_and_adding_again_restores_the_calling_thread_alone() {
        let had = have_capability(Type::EFFECTIVE, 4);
        std::thread::spawn(move || {
            update(change(Action::DROP, 4)).unwrap();
            assert_eq!(have_capability(Type::EFFECTIVE, 4), had, "not before apply");
            apply(Set::CAPS).unwrap();
            assert!(!have_capability(Type::EFFECTIVE, 4));
            if had {
                update(change(Action::ADD, 4)).unwrap();
                apply(Set::CAPS).unwrap();
                assert!(have_capability(Type::EFFECTIVE, 4));
            }
        })
        .join()
        .unwrap();
        assert_eq!(have_capability(Type::EFFECTIVE, 4), had, "this thread");
    }
}
