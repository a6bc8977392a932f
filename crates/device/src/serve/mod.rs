//! Serving one virtio device over vhost-user.
//!
//! The device implements [`Device`]; everything that has to do with the protocol, the rings and
//! their notifications is done here. One thread calls the device, so it needs no locks.

mod backend;
mod queue;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as DaemonError, ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

pub use backend::Sources;
pub use queue::{Chain, Memory, Queue};
pub use virtio_queue::{Reader, Writer};

/// Why the device was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The driver kicked this queue, or it has just been started.
    Queue(usize),
    /// A source's readiness changed; its token.
    Source(u16, Readiness),
}

/// How a source's readiness is, as epoll says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// A read would not block.
    pub readable: bool,
    /// A write would not block.
    pub writable: bool,
    /// The peer will send nothing more, or is gone.
    pub ending: bool,
    /// The peer is gone: EPOLLHUP or EPOLLERR.
    pub gone: bool,
}

/// A virtio device.
pub trait Device: Send + 'static {
    /// The device's own feature bits. The run-time adds VERSION_1, EVENT_IDX and INDIRECT_DESC.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each queue. The length is the number of queues.
    fn queue_sizes(&self) -> &'static [u16];

    /// The configuration space.
    fn config(&self) -> Vec<u8>;

    /// Called once, before all else: `sources` is for the device to keep.
    ///
    /// # Errors
    /// Whatever keeps the device from starting.
    fn attach(&mut self, sources: Sources) -> io::Result<()>;

    /// A new driver has taken over, which knows nothing of what was before.
    fn reset(&mut self);

    /// Something happened. `queues` has one entry for each of [`Device::queue_sizes`]; the driver
    /// is notified of chains that were pushed when this returns. It should do a bounded amount
    /// of work: other events wait.
    fn process(&mut self, event: Event, queues: &mut [Queue<'_>]);
}

/// A device that failed to be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener or the event loop.
    #[error("cannot set up the vhost-user server ({0})")]
    Setup(String),
    /// The front end broke the protocol.
    #[error("the vhost-user front end broke the protocol ({0}); the machine must be restarted")]
    Protocol(String),
    /// [`Device::attach`].
    #[error("the device cannot start")]
    Attach(#[source] io::Error),
}

/// A device with a front end connected to it.
pub struct Server<D: Device> {
    daemon: VhostUserDaemon<Arc<backend::Backend<D>>>,
}

impl<D: Device> Server<D> {
    /// Takes one connection from `listener`, a listening Unix socket, and begins to serve it.
    /// Waits for the connection if there is none yet.
    ///
    /// # Errors
    /// [`Error::Setup`] or [`Error::Attach`].
    pub fn start(device: D, listener: OwnedFd) -> Result<Self, Error> {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let backend = Arc::new(backend::Backend::new(device, memory.clone()));
        let mut daemon = VhostUserDaemon::new("vhost-user".into(), Arc::clone(&backend), memory)
            .map_err(|error| Error::Setup(error.to_string()))?;
        for handler in daemon.get_epoll_handlers() {
            backend.attach(&handler).map_err(Error::Attach)?;
        }
        let mut listener = Listener::from(UnixListener::from(listener));
        daemon
            .start(&mut listener)
            .map_err(|error| Error::Setup(error.to_string()))?;
        Ok(Self { daemon })
    }

    /// Ends the service from another thread.
    #[must_use]
    pub fn stopper(&self) -> Option<ShutdownHandle> {
        self.daemon.shutdown_handle()
    }

    /// Serves until the front end disconnects or the [`Server::stopper`] is used.
    ///
    /// # Errors
    /// [`Error::Protocol`].
    pub fn wait(mut self) -> Result<(), Error> {
        match self.daemon.wait() {
            Ok(()) => Ok(()),
            // A front end that dies in the middle of a message is gone, no more.
            Err(DaemonError::HandleRequest(
                VhostError::Disconnected | VhostError::PartialMessage,
            )) => Ok(()),
            Err(error) => Err(Error::Protocol(error.to_string())),
        }
    }
}
