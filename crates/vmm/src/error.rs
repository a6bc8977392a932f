//! Why a machine cannot be.

use std::io;

/// Why a machine cannot be put together or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The launch failed.
    #[error("the launch failed")]
    Launch(#[from] handoff::Error),
    /// The jail could not be closed.
    #[error("the jail of the VMM could not be closed")]
    Jail(#[from] jailer::Error),
    /// The configuration makes no sense.
    #[error("the machine cannot have {0}")]
    Config(String),
    /// Guest memory cannot be had.
    #[error("cannot make {mib} MiB of guest memory")]
    Memory {
        /// How much was asked for.
        mib: u64,
        /// The reason.
        source: io::Error,
    },
    /// The hypervisor refused.
    #[error(transparent)]
    Hypervisor(#[from] hv::Error),
    /// The guest cannot be loaded.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// A device cannot be attached.
    #[error("cannot attach device {name}")]
    Device {
        /// The device.
        name: String,
        /// The reason.
        source: crate::virtio::Error,
    },
    /// The PCI bus is full.
    #[error("cannot put the devices on the PCI bus")]
    Pci(#[from] pci::Error),
    /// An event or a thread could not be made.
    #[error("cannot {what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err` on a system call.
    pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
