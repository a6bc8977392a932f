//! How a back end can fail the suite.

use std::{error::Error, fmt::Debug, io};

use crate::{LIMIT, Stop};

/// What a back end did otherwise than promised.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The back end reported an error.
    #[error("the back end could not do what the guest's machine needs")]
    BackEnd(#[from] hv::Error),
    /// The guest did something else.
    #[error("the guest stopped for {found}; expected was {wanted}")]
    Stop {
        /// What it did.
        found: Stop,
        /// What it should have done.
        wanted: String,
    },
    /// Something has another value.
    #[error("{what} is {found}; expected was {wanted}")]
    Value {
        /// What it is.
        what: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// The guest did not end.
    #[error("the guest was still running after {LIMIT:?}, at {rip:#x}")]
    Overdue {
        /// Where it was.
        rip: u64,
    },
    /// The guest's memory cannot be made or reached.
    #[error("the guest's memory cannot be made or reached")]
    Memory(#[source] Box<dyn Error + Send + Sync>),
    /// An event cannot be made, signalled or read.
    #[error("an event cannot be made, signalled or read")]
    Event(#[from] io::Error),
    /// A saved state does not survive being written down.
    #[error("the saved state cannot be written down and read again")]
    State(#[from] postcard::Error),
}

impl Failure {
    /// What failed, and its causes.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// The result of a behaviour.
pub type Result<T> = std::result::Result<T, Failure>;

/// Compares, and names what differs.
pub(crate) fn same<T: PartialEq + Debug>(what: &'static str, found: &T, wanted: &T) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Failure::Value {
        what,
        found: format!("{found:x?}"),
        wanted: format!("{wanted:x?}"),
    })
}
