//! Serving one virtio device over vhost-user.
//!
//! The device implements [`Device`]; everything that has to do with the protocol, the rings and
//! their notifications is done here. One thread calls the device, so it needs no locks.

mod backend;
mod buffers;
mod holes;
mod journal;
mod queue;
mod slots;
mod vectored;
mod vring;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use handoff::Channel;
use nix::sys::socket::{Shutdown, shutdown};

use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as DaemonError, ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

pub use backend::{COMMON_FEATURES, Sources, read_config};
pub use buffers::Buffers;
pub use journal::{Journal, Note};
pub use queue::{Chain, Memory, Queue};
pub use slots::{Slots, Speaker};
pub use virtio_queue::{Reader, Writer};

/// Why the device was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The driver kicked this queue, or it has just been started.
    Queue(usize),
    /// The device had more to do, and others have had their turn.
    Again,
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
    fn queue_sizes(&self) -> Vec<u16>;

    /// The configuration space.
    fn config(&self) -> Vec<u8>;

    /// Called once, before all else: `sources`, for its own descriptors, is for the device to keep.
    ///
    /// # Errors
    /// Whatever keeps the device from starting.
    fn attach(&mut self, _sources: Sources) -> io::Result<()> {
        Ok(())
    }

    /// The driver chose these of the offered feature bits. It is called before any queue is live,
    /// and again when a driver takes over.
    fn negotiated(&mut self, _features: u64) {}

    /// A new driver has taken over, which knows nothing of what was before.
    fn reset(&mut self);

    /// Something happened. `queues` has one entry for each of [`Device::queue_sizes`]; the driver
    /// is notified of chains that were pushed when this returns. It should do a bounded amount
    /// of work: other events wait. Whether there is more to do: then it is called with
    /// [`Event::Again`].
    fn process(&mut self, event: Event, queues: &mut [Queue<'_>]) -> bool;
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

/// A device and the socket that its front end connects to.
pub struct Server<D: Device> {
    daemon: VhostUserDaemon<Arc<backend::Backend<D>>>,
    listener: UnixListener,
    stopper: Stopper,
}

/// Ends a [`Server::serve`] from another thread.
#[derive(Clone)]
pub struct Stopper(Arc<Stopping>);

struct Stopping {
    listener: OwnedFd,
    asked: AtomicBool,
    connection: OnceLock<ShutdownHandle>,
}

impl Stopper {
    /// Ends it, now or as soon as it begins.
    pub fn stop(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        // Wakes an accept that nobody connects to. It fails if the listener is closed already.
        let _ = shutdown(self.0.listener.as_raw_fd(), Shutdown::Both);
        self.close_connection();
    }

    fn close_connection(&self) {
        if let Some(connection) = self.0.connection.get() {
            connection.shutdown();
        }
    }

    fn was_asked(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl<D: Device> Server<D> {
    /// Builds the server around `listener`, a listening Unix socket.
    ///
    /// # Errors
    /// [`Error::Setup`] or [`Error::Attach`].
    pub fn new(device: D, listener: OwnedFd) -> Result<Self, Error> {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let backend = backend::Backend::new(device, memory.clone()).map_err(Error::Attach)?;
        let backend = Arc::new(backend);
        let daemon = VhostUserDaemon::new("vhost-user".into(), Arc::clone(&backend), memory)
            .map_err(|error| Error::Setup(error.to_string()))?;
        for handler in daemon.get_epoll_handlers() {
            backend.attach(&handler).map_err(Error::Attach)?;
        }
        let stopper = Stopper(Arc::new(Stopping {
            listener: listener
                .try_clone()
                .map_err(|error| Error::Setup(error.to_string()))?,
            asked: AtomicBool::new(false),
            connection: OnceLock::new(),
        }));
        Ok(Self {
            daemon,
            listener: listener.into(),
            stopper,
        })
    }

    /// As [`Server::serve`], until the supervisor closes `control` too, over which it says nothing.
    ///
    /// # Errors
    /// As [`Server::serve`].
    pub fn serve_supervised(self, control: Channel) -> Result<(), Error> {
        let stopper = self.stopper();
        let watch = move || {
            if matches!(control.receive::<()>(), Ok(Some(_))) {
                crate::report("the supervisor sent nonsense");
            }
            stopper.stop();
        };
        let thread = thread::Builder::new().name("control".into());
        thread
            .spawn(watch)
            .map_err(|error| Error::Setup(error.to_string()))?;
        self.serve()
    }

    /// What ends the service.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Takes one connection, waiting for it if there is none yet, and serves until the front end
    /// disconnects or the [`Stopper`] is used.
    ///
    /// # Errors
    /// [`Error::Setup`] or [`Error::Protocol`].
    pub fn serve(self) -> Result<(), Error> {
        let Self {
            mut daemon,
            listener,
            stopper,
        } = self;
        let result = daemon.start(&mut Listener::from(listener));
        if stopper.was_asked() {
            return Ok(());
        }
        result.map_err(|error| Error::Setup(error.to_string()))?;
        if let Some(connection) = daemon.shutdown_handle() {
            // It was empty: this is the only place that fills it.
            let _ = stopper.0.connection.set(connection);
        }
        if stopper.was_asked() {
            stopper.close_connection();
        }
        match daemon.wait() {
            Ok(()) => Ok(()),
            // A front end that dies in the middle of a message is gone, no more.
            Err(DaemonError::HandleRequest(
                VhostError::Disconnected | VhostError::PartialMessage,
            )) => Ok(()),
            Err(error) => Err(Error::Protocol(error.to_string())),
        }
    }
}
