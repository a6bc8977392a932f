//! Between a client and the keeper: messages on a socket that keeps their boundaries.

use serde::{Deserialize, Serialize};

/// Client to keeper. A client is one connection; the box stays up while it is open.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// The first message. `build` identifies the binaries that the client has.
    Hello {
        /// See [`crate::build::identity`].
        build: [u8; 32],
    },
    /// Connect the accompanying stream to this vsock port of the box.
    Connect {
        /// The port.
        port: u32,
    },
}

/// Keeper to client, in answer to [`Ask::Hello`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The box is up and yours to use.
    Up(Status),
    /// The box was made from other binaries, and makes way for a new one.
    Stale,
}

/// What there is to know about a box that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The keeper's process id.
    pub keeper: u32,
    /// QEMU's process id.
    pub qemu: u32,
    /// The release of the box's kernel.
    pub kernel: String,
    /// How long each phase of the start took, in milliseconds.
    pub phases: Vec<(String, u64)>,
}

impl Status {
    /// How long the start took, in milliseconds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.phases.iter().map(|(_, time)| time).sum()
    }
}
