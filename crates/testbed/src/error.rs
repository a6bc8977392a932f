//! What can go wrong.

use std::{io, path::PathBuf, process::ExitStatus};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no box, or nothing can be run in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Programs that the box needs are not installed.
    #[error(
        "the testbed needs what is not installed here: {missing}; \
         `cargo xtask testbed up` installs it"
    )]
    Missing {
        /// The programs, separated by commas.
        missing: String,
    },
    /// A file, directory or socket could not be used.
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
    /// The operating system refused something without a name.
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
    /// The directory for sockets belongs to someone else, or others may enter it.
    #[error("{0} must be a directory of this user's that nobody else may enter; remove it")]
    Runtime(PathBuf),
    /// A program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program of the box ended.
    #[error("{program} ended ({status})")]
    Ended {
        /// The program.
        program: String,
        /// How.
        status: String,
    },
    /// The kernel or the initramfs is not to be had.
    #[error("no kernel for the testbed")]
    Kernel(#[from] kernel::Error),
    /// A message between client, keeper and device.
    #[error("the testbed's processes do not understand each other")]
    Channel(#[from] handoff::Error),
    /// The box's agent.
    #[error("the testbed's agent")]
    Agent(#[from] agent_client::Error),
    /// There is no policy of this name.
    #[error("there is no policy `{0}`")]
    Policy(&'static str),
    /// The jail of the vsock device.
    #[error("cannot start the vsock device in its jail")]
    Jail(#[from] jailer::Error),
    /// The box came up, but not as it should.
    #[error("the box could not set itself up: {0}")]
    Setup(String),
    /// The box did not come up.
    #[error("the testbed did not come up; the end of its log ({log}) is:\n{tail}")]
    NotUp {
        /// The whole log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The keeper got a signal while the box was in use.
    #[error("the box was told to end while {clients} clients used it")]
    Told {
        /// How many.
        clients: usize,
    },
    /// Something took longer than it ever should.
    #[error("{0} did not happen within its time limit")]
    TimedOut(&'static str),
    /// Cargo failed; it has said why.
    #[error("`{command}` failed ({status})")]
    Cargo {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
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

/// Wraps an I/O error with what was tried.
pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::System(action, source.into())
}
