//! What can go wrong.

use std::io;
use std::path::PathBuf;

/// The result of everything here.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why the program was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be used.
    #[error("cannot {what} {path}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Two things want the same number.
    #[error("two descriptors have the number {0}")]
    Number(i32),
    /// The program or its policy.
    #[error(transparent)]
    Foreign(#[from] foreign::Error),
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
