//! What can go wrong.

use std::{io, path::PathBuf};

/// The result of a task: its exit code.
pub(crate) type Result<T = u8> = std::result::Result<T, Error>;

/// Why a task could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program could not be started.
    #[error("cannot start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program failed; it has said why.
    #[error("`{command}` failed ({status})")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
    },
    /// What is missing can only be installed by root.
    #[error(
        "{packages} must be installed, and there is neither root nor sudo here; \
         as root: apt-get update && apt-get install {packages}"
    )]
    NoRoot {
        /// The packages.
        packages: String,
    },
    /// What is missing comes from a package system that is not here.
    #[error("{packages} must be installed, and there is no apt-get here; install it by hand")]
    NoApt {
        /// The packages.
        packages: String,
    },
    /// A file.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There is no such fuzz target.
    #[error("there is no fuzz target `{0}`; `cargo xtask fuzz` lists them")]
    Target(String),
    /// There is no such test.
    #[error("there is no test `{0}`; `cargo xtask runtest` lists them")]
    Test(String),
    /// There is no policy for it.
    #[error("there is no component `{0}`; the components are those of crates/policy/policies")]
    Component(String),
    /// The testbed.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// Cargo's description of the workspace.
    #[error("cannot understand `cargo metadata`")]
    Metadata(#[from] serde_json::Error),
    /// A measurement did not give a number.
    #[error("cannot measure {what}: {why}")]
    Measure {
        /// What was to be measured.
        what: String,
        /// What happened.
        why: String,
    },
    /// Something that only an expert can mend.
    #[error("{0}")]
    Other(String),
}

/// Wraps an I/O error with what was tried on what.
pub(crate) fn file(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File {
        action,
        path,
        source,
    }
}
