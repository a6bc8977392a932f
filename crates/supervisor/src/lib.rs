//! Starts the processes of a machine, watches them, and ends them together.
//!
//! One thread a machine does all of it: it spawns every component through the jailer, holds a
//! pidfd of each, and polls. The kernel kills a component when the thread that spawned it ends,
//! so the machine cannot outlive its supervisor, however that dies.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(clippy::arithmetic_side_effects, reason = "a test fails by panicking")
)]

mod component;
mod console;
mod journal;
mod launch;
mod link;
mod lone;
mod machine;
mod memory;
mod plan;
mod programs;
mod replace;
mod streams;
mod tail;
mod unit;
pub mod unpack;
mod watch;

use std::{io, path::PathBuf, time::Duration};

pub use lone::Lone;
pub use machine::{Machine, ProcessInfo, Timings};
pub use plan::{Description, Device, Dialer, External, Nameservers, Plan, Program, Uplink};
pub use programs::Programs;
pub use tail::printable;

/// Why a machine did not start, or ended otherwise than by its guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A component's program is missing or may not be executed.
    #[error("cannot execute {}; are CrumbleCracker's programs installed side by side?", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The host lets us make cgroups, but not this one.
    #[error("cannot limit what the machine uses; `crumble doctor` says where its cgroup would be")]
    Group(#[source] jailer::Error),
    /// There is no policy of this name.
    #[error("no policy for component \"{0}\"")]
    Policy(String),
    /// A socket, pipe or thread could not be made.
    #[error("cannot {what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A component could not be started in its jail.
    #[error("cannot start {name}")]
    Spawn {
        /// The component.
        name: String,
        /// The jailer's reason.
        source: jailer::Error,
    },
    /// A component refused its configuration.
    #[error("{name} refused to start{log}")]
    Refused {
        /// The component.
        name: String,
        /// Its last words.
        log: LastWords,
        /// Its reason.
        source: handoff::Error,
    },
    /// A component ended while the machine ran.
    #[error("{name} {exit}{log}")]
    Died {
        /// The component.
        name: String,
        /// How it ended.
        exit: String,
        /// Its last words.
        log: LastWords,
    },
    /// A component did not say that it is ready.
    #[error("{name} did not become ready within {} s{log}", limit.as_secs())]
    Silent {
        /// The component.
        name: String,
        /// How long it had.
        limit: Duration,
        /// Its last words.
        log: LastWords,
    },
    /// A message to or from a component failed.
    #[error("the control channel of {name} failed")]
    Channel {
        /// The component.
        name: String,
        /// The reason.
        source: handoff::Error,
    },
    /// A configuration is too long to be sent.
    #[error("the machine's description is too long")]
    TooLong(#[from] wire::Error),
    /// The VMM could not go on.
    #[error("the VMM failed: {0}")]
    Vmm(String),
    /// The VMM gave a device up.
    #[error("device {name} failed: {reason}{log}")]
    DeviceFailed {
        /// The device.
        name: String,
        /// What it did.
        reason: String,
        /// Its last words.
        log: LastWords,
    },
    /// The guest's agent could not set the guest up.
    #[error("the guest could not be set up: {0}")]
    Setup(String),
    /// The guest did not come up in time.
    #[error("the guest did not come up within {} s{console}", limit.as_secs())]
    NotUp {
        /// How long it had.
        limit: Duration,
        /// The console's last lines.
        console: LastWords,
    },
    /// The guest ended before it was up.
    #[error("the guest ended before it was up: {end}{console}")]
    EndedEarly {
        /// How it ended.
        end: String,
        /// The console's last lines.
        console: LastWords,
    },
    /// The machine has no vsock device.
    #[error("the machine has no vsock device")]
    NoVsock,
    /// The VMM did not answer.
    #[error("the VMM did not answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// A layer of an image makes no sense, or is too large.
    #[error("the layer cannot be unpacked: {0}")]
    Layer(String),
    /// There is no such device, or none that may die.
    #[error("no process can take the place of {name}; of this machine's it can that of {known}")]
    NotReplaceable {
        /// What was asked for.
        name: String,
        /// What could be.
        known: String,
    },
    /// A device is as it was after all.
    #[error("no process has taken the place of {0} within 10 s")]
    NotReplaced(String),
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
}

/// What a component or a guest said last, shown below the error if there is anything.
#[derive(Debug, Clone, Default)]
pub struct LastWords(pub(crate) String);

impl std::fmt::Display for LastWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LINES: usize = 20;
        let lines: Vec<&str> = self.0.lines().collect();
        let skipped = lines.len().saturating_sub(LINES);
        lines
            .iter()
            .skip(skipped)
            .try_for_each(|line| write!(f, "\n  | {line}"))
    }
}
