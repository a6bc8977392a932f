//! What can go wrong.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// Any error, as a worker may have it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An instruction cannot be done as it is written.
    #[error("{place}: {reason}")]
    Instruction {
        /// Which one: `FILE:LINE: INSTRUCTION`.
        place: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// An instruction is fine, and failed.
    #[error("{place}: cannot {action}")]
    Failed {
        /// Which one: `FILE:LINE: INSTRUCTION`.
        place: String,
        /// What was tried.
        action: String,
        /// Why it failed.
        source: BoxError,
    },
    /// A Dockerfile, `.dockerignore` or build that is wrong as a whole.
    #[error("{file}: {reason}")]
    Whole {
        /// Which file.
        file: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file or directory could not be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::File { path, source }
    }
}

/// Where an instruction is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file, or whose `ONBUILD` it is.
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) keyword: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.keyword)
    }
}

/// Why an instruction cannot be done, by those who do not know which one it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Reason(String),
    #[error("cannot {0}")]
    Failed(String, #[source] BoxError),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

impl Fault {
    /// For what somebody else could not do.
    pub(crate) fn failed<E: Into<BoxError>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        |error| Self::Failed(action, error.into())
    }

    pub(crate) fn at(self, place: &Place) -> Error {
        let place = place.to_string();
        match self {
            Self::Reason(reason) => Error::Instruction { place, reason },
            Self::Failed(action, source) => Error::Failed {
                place,
                action,
                source,
            },
        }
    }
}
