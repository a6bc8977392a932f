//! The launch protocol: how a host process hands a component its work, and hears that it began.
//!
//! 1. The host makes a [`Channel::pair`] and starts the component with one end as fd
//!    [`CHANNEL_FD`]; every other descriptor but stdin, stdout and stderr is closed.
//! 2. The host sends the configuration and the named resources with [`start`].
//! 3. The component takes them with [`launched`], confines itself, and answers with
//!    [`Answer::ready`] or [`Answer::refuse`], which [`await_ready`] returns to the host.
//! 4. After that the same channel carries the component's own vocabulary (see `wire`).
//!
//! Neither half trusts the other: sizes and numbers of descriptors are capped before anything is
//! allocated, descriptors that do not belong to a message are closed, and text is made printable.

#![deny(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod channel;
mod child;
mod parent;
mod socket;

use std::io;

use serde::{Deserialize, Serialize};

pub use channel::Channel;
pub use child::{Answer, Launched, Resources, launched};
pub use parent::{await_ready, start, start_encoded};

/// The descriptor at which a component finds its end of the channel.
pub const CHANNEL_FD: i32 = 3;

/// The most descriptors that one message carries: a block device's with an image of 127 layers, two
/// parts of a partition table, and a socket. The kernel passes at most 253.
pub const MAX_FDS: usize = 130;

/// The version of this protocol; host and component come from one build, so they must be equal.
pub const VERSION: u16 = 1;

/// The longest name of a resource, in bytes.
const MAX_NAME: usize = 64;

/// What a component is started with.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    /// [`VERSION`] of the host.
    version: u16,
    /// The encoded configuration.
    config: Vec<u8>,
    /// One name for each descriptor that accompanies the message, in order.
    names: Vec<String>,
}

/// What a component answers.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// It is confined and about to serve.
    Ready,
    /// It could not begin; the text says why.
    Failed(String),
}

/// What can go wrong on a channel or during a launch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("cannot {0} on the channel")]
    Socket(&'static str, #[source] io::Error),
    /// Nothing came, or nothing could be sent, within the time limit.
    #[error("the other side of the channel did not act within its time limit")]
    TimedOut,
    /// The message does not encode, decode or fit.
    #[error("a message on the channel is invalid")]
    Message(#[from] wire::Error),
    /// The peer broke the framing; the text says how.
    #[error("the other side of the channel broke the protocol: {0}")]
    Protocol(&'static str),
    /// More than [`MAX_FDS`] descriptors were to be sent.
    #[error("{0} file descriptors for one message, at most {MAX_FDS} fit")]
    TooManyFds(usize),
    /// A resource's name is empty, too long or used twice.
    #[error("`{0}` is not a usable name for a resource: empty, too long, or used twice")]
    Name(String),
    /// The component was not handed a resource that it needs.
    #[error("no resource named `{0}` was handed over")]
    NoResource(String),
    /// The program was started without a channel.
    #[error(
        "file descriptor {CHANNEL_FD} is not a launch channel; this program is started by crumble, \
         not by hand"
    )]
    NotLaunched,
    /// Host and component come from different builds.
    #[error(
        "the host speaks version {0} of the launch protocol, this program {VERSION}; \
             reinstall both from one build"
    )]
    Version(u16),
    /// The component said that it cannot begin.
    #[error("refused to start: {reason}")]
    Refused {
        /// What the component said, printable and at most 4 KiB.
        reason: String,
    },
    /// The component closed the channel without an answer.
    #[error("ended before it was ready; its log may say why")]
    Died,
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
