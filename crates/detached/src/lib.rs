//! Machines that outlive the program that started them.
//!
//! Each has a process of its own, its keeper, which holds the machine as any program with the library
//! does, and there is no daemon above them. A machine is a directory ([`Directory`]) that says what it is
//! and how it ended, with a lock that its keeper holds as long as it lives, and a socket on which it
//! answers ([`Handle`], `docs/api.yaml`). When a keeper dies, however it does, the kernel ends its machine
//! and releases the lock: what is found then is a machine without an end, and nothing to be swept.

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

mod api;
mod directory;
mod handle;
mod http;
mod keeper;
mod log;
mod place;
mod server;
mod time;

use std::{io, path::PathBuf};

pub use api::{State, Stats, Status, signal_number};
use crumble::Name;
pub use directory::{Description, Directory, Ended};
pub use handle::Handle;
pub use keeper::{Restart, Work, keep};
pub use log::{Line, Reader, Stream};

/// What can go wrong with a machine that has a keeper.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such machine.
    #[error("there is no machine {0}; `crumble ps --all` lists them")]
    NoMachine(String),
    /// It runs.
    #[error("the machine {0} is running; `crumble stop {0}` ends it")]
    Running(Name),
    /// It does not run.
    #[error("the machine {0} is not running; `crumble start {0}` starts it")]
    NotRunning(Name),
    /// A file or directory of a machine.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Where machines are is somebody else's.
    #[error(
        "{} is not a directory of yours alone; remove it, or set XDG_RUNTIME_DIR to one that is",
        .0.display()
    )]
    Place(PathBuf),
    /// A machine of another version, or a file that was edited.
    #[error("{} makes no sense; `crumble rm --force` removes the machine", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// An argument that is not text.
    #[error("a machine that is kept is described in UTF-8, and {0:?} is not")]
    NotText(std::ffi::OsString),
    /// The keeper gave no answer that can be used.
    #[error("the keeper of the machine does not answer")]
    Answer(#[source] io::Error),
    /// The keeper said no.
    #[error("{0}")]
    Refused(String),
    /// A thread or a pipe could not be made.
    #[error("cannot {what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The machine.
    #[error(transparent)]
    Machine(#[from] crumble::Error),
}

fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path,
        source,
    }
}
