//! What the kernel says of a machine's processes, compared with their policies.
//!
//! Everything here is read back from `/proc`: what a process *has*, whatever it was meant to have.
//! [`machines`] finds the machines that run, [`inspect`] reads the processes of one and compares
//! each component with its policy.
//!
//! A component that a guest has taken over can write its own title. Where the caller may see which
//! program a process runs, that decides which policy it is compared with, and a title that says
//! otherwise is a finding.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod capabilities;
mod compare;
mod field;
mod files;
mod machine;
mod process;
mod text;

use std::{io, path::PathBuf};

pub use capabilities::{Capabilities, CapabilitySet};
pub use compare::{Expected, Finding, Verdict, compare};
pub use field::{Field, HIDDEN};
pub use files::FileKind;
pub use machine::{Examined, Inspection, Machine, Role, inspect, machines};
pub use process::{ControlGroup, Dumpable, Namespace, Proc, Process, Thread};
pub use text::{Ids, Limit, Rights, escape};

/// Why a machine could not be inspected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no processes to be seen.
    #[error("cannot list the processes in {}", path.display())]
    List {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no such process.
    #[error("there is no process {0}, or it has ended")]
    Gone(u32),
    /// The process exists, and has nothing to do with machines.
    #[error("process {0} holds no machine: none of its children is a component")]
    NoMachine(u32),
}
