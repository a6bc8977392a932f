//! Applies a policy to a component, in two halves.
//!
//! The outside half, [`spawn`], runs in the host's process: it starts the component's program in
//! namespaces of its own, with resource limits and three standard descriptors and a channel, and
//! nothing else. The inside half, [`confine`], is called by the component before it reads the
//! first byte from anyone it does not trust, and takes the rest away: the file system,
//! capabilities, new privileges, paths and ports (Landlock), and every system call that the policy
//! does not list.
//!
//! Both work as root and as an ordinary user who may make user namespaces.

#![deny(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[cfg(all(feature = "test-jail-off", not(debug_assertions)))]
compile_error!("the feature `test-jail-off` is for debugging and must not be in a release build");

#[cfg(all(feature = "test-layers", not(debug_assertions)))]
compile_error!("the feature `test-layers` is for tests and must not be in a release build");

mod cgroup;
mod child;
mod identity;
mod inside;
mod layers;
mod outside;
mod process;
mod program;
mod subtree;
mod sys;
#[cfg(feature = "trace")]
mod trace;

use std::io;

pub use cgroup::{Budget, Delegation, Group, Leaf, cgroup_directories, is_component_group};
pub use identity::effective as effective_identity;
pub use inside::{Access, Confined, Grant, confine, confine_to};
#[cfg(feature = "test-layers")]
pub use layers::{Layer, leave_out};
pub use outside::{Launch, spawn};
pub use process::{Exit, Process};
pub use program::{Program, execute};
pub use subtree::subtree;
pub use sys::landlock_abi;

/// Why a component could not be started or confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel did not make the namespaces.
    #[error("cannot start a process in namespaces of its own; {hint}")]
    Namespaces {
        /// What is probably missing, and what to do.
        hint: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A step in the host's process failed.
    #[error("cannot {0}")]
    Prepare(&'static str, #[source] io::Error),
    /// A step in the new process, before the program ran, failed.
    #[error("`{title}` cannot be started: the new process cannot {step}{hint}")]
    Start {
        /// The component's title.
        title: String,
        /// What failed.
        step: &'static str,
        /// What to do about it, if that is known; begins with a separator.
        hint: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A step of the inside half failed.
    #[error("the jail is incomplete, so this process does not start: cannot {0}{1}")]
    Confine(&'static str, &'static str, #[source] io::Error),
    /// A path of a program's policy cannot be had.
    #[error("the jail cannot have `{path}`, which its policy lists")]
    Path {
        /// Which.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Landlock is missing or too old.
    #[error(
        "the jail is incomplete, so this process does not start: the kernel does not enforce \
         Landlock of version {0} or newer; boot a kernel that has it enabled (`lsm=landlock,...`)"
    )]
    Landlock(u32, #[source] landlock::RulesetError),
    /// The kernel's Landlock is older than the policy allows.
    #[error(
        "the jail is incomplete, so this process does not start: the policy wants Landlock of \
         version {floor} or newer, and this kernel has {found}; boot a newer kernel"
    )]
    LandlockFloor {
        /// The policy's.
        floor: u32,
        /// The kernel's.
        found: u32,
    },
    /// The process cannot be waited for.
    #[error("cannot wait for process {0}; somebody else may have reaped it")]
    Wait(i32, #[source] io::Error),
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
