//! What can go wrong.

use std::io;
use std::path::PathBuf;

/// The result of everything here.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why the program was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The policy is wrong.
    #[error("{0}")]
    Policy(policy_table::Error),
    /// A file cannot be used.
    #[error("cannot {what} {path}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// There is no such program.
    #[error("there is no program `{0}`; give its path, or add its directory to PATH")]
    NoProgram(String),
    /// Two things want the same number.
    #[error("two descriptors have the number {0}")]
    Number(i32),
    /// A text that a program cannot be given.
    #[error("`{0}` contains a null character")]
    Null(String),
    /// Something ran out.
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
    /// The jail.
    #[error(transparent)]
    Jail(#[from] jailer::Error),
    /// Between the two halves of this program.
    #[error(transparent)]
    Handoff(#[from] handoff::Error),
}

/// Names a file in an error.
pub(crate) fn file(
    what: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { what, path, source }
}
