//! What can be wrong with a device.

use std::io;
use std::time::Duration;

/// Why a device could not be set up, or why it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The description does not make a virtio-pci function.
    #[error("the device cannot be put on the PCI bus")]
    Pci(#[from] pci::Error),
    /// The hypervisor has no doorbell or interrupt for us.
    #[error("the hypervisor refused a {0}")]
    Hypervisor(
        &'static str,
        #[source] Box<dyn std::error::Error + Send + Sync>,
    ),
    /// Guest memory that cannot be shared with a device process.
    #[error("guest memory is not backed by a file")]
    Memory(#[source] vhost::Error),
    /// The connection cannot be watched.
    #[error("cannot duplicate the connection to the device; is the limit of open files too low?")]
    Connection(#[source] io::Error),
    /// No event could be made.
    #[error("cannot create an event; is the limit of open files too low?")]
    Event(#[source] io::Error),
    /// No thread could be started.
    #[error("cannot start a thread; is the limit of processes too low?")]
    Thread(#[source] io::Error),
    /// The back end refused a request, answered nonsense, or was gone.
    #[error("the back end did not accept {request}")]
    Request {
        /// vhost-user's name of the request.
        request: &'static str,
        /// What the front end made of the answer.
        #[source]
        source: vhost::Error,
    },
    /// The back end has too few queues.
    #[error("the back end has {offered} queues, the machine's description says {wanted}")]
    Queues {
        /// By GET_QUEUE_NUM.
        offered: u64,
        /// By the description.
        wanted: usize,
    },
    /// The driver enabled a queue that the device was not built with.
    #[error("there is no queue {0}")]
    NoQueue(u16),
    /// Another back end than the first, and one that the guest would notice.
    #[error("the new back end does not offer what the one before it did")]
    Changed,
    /// Not a device of virtio 1.0 or later.
    #[error("the back end does not offer VIRTIO_F_VERSION_1")]
    Legacy,
    /// End of file.
    #[error("the back end closed the connection")]
    HungUp,
    /// The watcher lost patience.
    #[error("the back end did not answer within {0:?}")]
    TimedOut(Duration),
}

impl Error {
    /// For `map_err` on a call of the vhost-user front end.
    pub(super) fn request(request: &'static str) -> impl FnOnce(vhost::Error) -> Self {
        move |source| Self::Request { request, source }
    }
}
