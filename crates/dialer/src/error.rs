//! Why the dialer cannot begin or go on.

use std::io;

use crate::config;

/// Why the dialer cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error("the dialer cannot be configured")]
    Config(#[from] config::Error),
    /// What it was started with.
    #[error("the dialer was started without what it needs")]
    Resources(#[source] handoff::Error),
    /// The network device broke the protocol.
    #[error("the network device broke the protocol over `{0}`: {1}")]
    Device(&'static str, &'static str),
    /// The network device sent a datagram that is none.
    #[error("the network device sent nonsense over `{0}`")]
    Datagram(&'static str, #[source] wire::Error),
    /// The network device's questions are none, or cannot be heard or answered.
    #[error("the network device is not understood over `{0}`")]
    Channel(&'static str, #[source] handoff::Error),
    /// The supervisor sent nonsense.
    #[error("the supervisor sent nonsense")]
    Supervisor(#[source] handoff::Error),
    /// The operating system.
    #[error("the dialer cannot {0}")]
    System(&'static str, #[source] io::Error),
}

/// Why the dialer's loop ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The network device or the supervisor left.
    Left,
    /// It cannot go on.
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// For what the operating system refuses.
pub(crate) fn system(what: &'static str) -> impl Fn(nix::errno::Errno) -> Error {
    move |errno| Error::System(what, errno.into())
}
