//! What can go wrong in the guest.

use nix::errno::Errno;
use wire::agent::{Failure, FailureKind};

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {action}")]
    System {
        action: String,
        #[source]
        source: Errno,
    },
    #[error("cannot {action}")]
    Message {
        action: &'static str,
        #[source]
        source: wire::Error,
    },
    #[error("the host speaks version {host} of the agent's protocol, the agent {agent}")]
    Version { host: u16, agent: u16 },
    #[error("no {what} {name:?} in the guest")]
    NoSuch { what: &'static str, name: String },
    #[error(
        "no network interface {mac} appeared: the guest's kernel needs the driver virtio_net, or \
         the machine no network"
    )]
    NoInterface { mac: String },
    #[error("{0}")]
    Invalid(&'static str),
    #[error("{program}: command not found")]
    NotFound { program: String },
    #[error("{program} exists, but the interpreter that it names does not")]
    NoInterpreter { program: String },
    #[error("cannot execute {program}")]
    NotExecutable {
        program: String,
        #[source]
        source: Errno,
    },
}

impl Error {
    pub(crate) fn failure(&self) -> Failure {
        let kind = match self {
            Self::NotFound { .. } | Self::NoInterpreter { .. } => FailureKind::NotFound,
            Self::NotExecutable { .. } => FailureKind::NotExecutable,
            Self::Version { .. } => FailureKind::Version,
            Self::System {
                source: Errno::ECONNREFUSED,
                ..
            } => FailureKind::ConnectionRefused,
            Self::System {
                source: Errno::EADDRINUSE,
                ..
            } => FailureKind::AddressInUse,
            _ => FailureKind::Other,
        };
        Failure {
            kind,
            message: wire::chain(self),
        }
    }
}

/// Wraps a system call's error with what it was for.
pub(crate) fn cannot(action: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    let action = action.into();
    move |source| Error::System { action, source }
}

/// The error number of a standard library error.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
