//! What the new process does between clone3 and exec.
//!
//! It is a copy of one thread of a program that may have had many, so locks may be held for ever:
//! nothing here allocates, formats or panics. Everything was prepared before.

use std::ffi::c_char;
use std::io;
use std::os::fd::RawFd;

use crate::sys;

/// Everything that the new process needs, as plain numbers and pointers. All descriptors are above
/// those that they are placed at.
pub(crate) struct Plan<'a> {
    /// The process may drop the groups of its parent.
    pub(crate) drop_groups: bool,
    /// The host writes a byte when the maps of users are made.
    pub(crate) go: RawFd,
    /// Where a failed step goes; closed by the exec.
    pub(crate) status: RawFd,
    /// What becomes descriptors 0, 1, 2, and so on.
    pub(crate) places: [RawFd; 4],
    /// The program.
    pub(crate) program: RawFd,
    /// The program's arguments, with a null at the end.
    pub(crate) argv: &'a [*const c_char],
    /// The program's environment, with a null at the end.
    pub(crate) envp: &'a [*const c_char],
}

/// A step that may fail. The number travels to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    Wait,
    Identity,
    Session,
    DeathSignal,
    Descriptors,
    Signals,
    Execute,
}

impl Step {
    /// Every step, by number.
    const ALL: [Self; 7] = [
        Self::Wait,
        Self::Identity,
        Self::Session,
        Self::DeathSignal,
        Self::Descriptors,
        Self::Signals,
        Self::Execute,
    ];

    /// The step of a number that came over the status pipe.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// What failed, after "cannot".
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Wait => "hear from the process that starts it",
            Self::Identity => "take the user and group of its namespace",
            Self::Session => "begin a session",
            Self::DeathSignal => "ask to end with the process that started it",
            Self::Descriptors => "arrange its descriptors",
            Self::Signals => "unblock signals",
            Self::Execute => "execute the program",
        }
    }
}

/// Does it all; ends with another program or with the process.
pub(crate) fn run(plan: &Plan<'_>) -> ! {
    let (step, error) = match steps(plan) {
        Err(failure) => failure,
        Ok(()) => (
            Step::Execute,
            sys::execute(plan.program, plan.argv, plan.envp),
        ),
    };
    let [a, b, c, d] = error.raw_os_error().unwrap_or(0).to_ne_bytes();
    sys::write_bytes(plan.status, &[step as u8, a, b, c, d]);
    sys::exit_now(127)
}

/// Everything before the exec.
fn steps(plan: &Plan<'_>) -> Result<(), (Step, io::Error)> {
    let at = |step| move |error| (step, error);
    if !sys::read_byte(plan.go).map_err(at(Step::Wait))? {
        // The host is gone, or failed and will say so by itself.
        sys::exit_now(127);
    }
    sys::become_root(plan.drop_groups).map_err(at(Step::Identity))?;
    sys::new_session().map_err(at(Step::Session))?;
    // After the change of users, which clears it.
    sys::control(libc::PR_SET_PDEATHSIG, 9, 0).map_err(at(Step::DeathSignal))?;
    // A second byte, so that a host that ended before the line above is noticed.
    if !sys::read_byte(plan.go).map_err(at(Step::Wait))? {
        sys::exit_now(127);
    }
    let [input, output, errors, channel] = plan.places;
    for (from, to) in [(input, 0), (output, 1), (errors, 2), (channel, 3)] {
        sys::place_descriptor(from, to).map_err(at(Step::Descriptors))?;
    }
    sys::close_from_at_exec(4).map_err(at(Step::Descriptors))?;
    sys::unblock_signals().map_err(at(Step::Signals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_found_by_its_number() {
        for step in Step::ALL {
            assert_eq!(Step::from_number(step as u8), Some(step));
        }
        assert_eq!(Step::from_number(7), None);
    }
}
