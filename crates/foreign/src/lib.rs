//! A program of somebody else's in the jail, under a policy from a file.
//!
//! It knows nothing of the jail, so that is closed around it before its first instruction. There are two
//! halves: outside, [`Foreign::open`] reads the policy and opens the program, and what is spawned in new
//! namespaces is `crumble-jailer`; inside, that calls [`become_program`].

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod inside;
mod outside;
mod rules;

use std::io;
use std::path::PathBuf;

pub use inside::become_program;
pub use outside::{Command, Config, Foreign};

/// The program of the half inside, which the two programs of this kind are started as.
pub const PROGRAM: &str = "crumble-jailer";

/// How the half inside knows that it is that: its title begins so.
pub const TITLE: &str = "crumble-jailer: ";

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy is wrong.
    #[error("{0}")]
    Policy(policy_table::Error),
    /// A file cannot be used.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is no such program.
    #[error("there is no program `{0}`; give its path, or add its directory to PATH")]
    NoProgram(String),
    /// A descriptor that the program cannot be given.
    #[error("a descriptor of the program cannot have the number `{0}`")]
    Number(String),
    /// A text that a program cannot be given.
    #[error("`{0}` contains a null character")]
    Null(String),
    /// Something ran out.
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
    /// The jail.
    #[error(transparent)]
    Jail(#[from] jailer::Error),
    /// Between the two halves.
    #[error(transparent)]
    Handoff(#[from] handoff::Error),
}

/// Names a file in an error.
fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { what, path, source }
}
