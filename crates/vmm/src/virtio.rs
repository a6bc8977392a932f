//! vhost-user devices behind the virtio-pci transport, whatever they are.
//!
//! The data path does not pass here: a queue's notification is a doorbell whose event the back
//! end waits on, and a queue's interrupt is an event that the hypervisor turns into an MSI. What
//! passes here is configuration, and nothing that the back end answers is trusted: sizes are
//! ours, features are masked, and every wait has an end.

mod backend;
mod config_size;
mod connection;
mod doorbells;
mod error;
mod handshake;
mod host;
mod link;
mod memory;
mod rings;
mod status;
mod vectors;
mod watch;

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pci::virtio::{Description, Interrupts, VirtioPci};
use vm_memory::GuestMemoryMmap;
use wire::vmm::Device;

pub use backend::VhostUser;
pub use error::Error;
pub use host::{Host, Interrupt};
pub use status::Report;

use doorbells::Doorbells;
use handshake::Described;
use link::{Agreed, Link};
use memory::MemoryTable;
use status::Status;
use vectors::Vectors;
use watch::Breaker;

/// How long a back end may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the whole handshake, from the moment the device is constructed.
    pub handshake: Duration,
    /// For each step that a vCPU waits for later: activation, reset, a config write.
    pub call: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            call: Duration::from_secs(10),
        }
    }
}

/// Makes a PCI function of a connected back end, and begins the handshake with it on a thread of
/// its own. A vCPU that needs the handshake's result waits for it.
///
/// A back end that fails, now or later, is reported once. If the device is replaceable it rests
/// until the [`Replacement`] is given another; otherwise the guest sees `DEVICE_NEEDS_RESET`, and no
/// features from then on. Dropping the function closes the connection.
///
/// # Errors
/// If the description is no virtio-pci device, or the host has no memory, event, thread or
/// interrupt left for it. A back end's misbehaviour is never an error here.
pub fn vhost_user_device<H: Host>(
    device: &Device,
    socket: UnixStream,
    memory: &GuestMemoryMmap,
    host: &Arc<H>,
    limits: Limits,
    report: Report,
) -> Result<(VirtioPci<VhostUser<H>>, Replacement), Error> {
    let patience = Instant::now()
        .checked_add(limits.handshake)
        .unwrap_or_else(Instant::now);
    let description = Description {
        virtio_id: device.virtio_id,
        queues: device.queues.clone(),
    };
    let queues = device.queues.len();
    // A vector for each queue, and one for the device as a whole.
    let vectors = u16::try_from(queues.saturating_add(1)).unwrap_or(u16::MAX);
    let breaker = Arc::new(Breaker::new(second(&socket)?));
    let (vectors, calls) = Vectors::new(host.as_ref(), vectors, Arc::clone(&breaker))?;
    let interrupts = Interrupts::new(calls.count(), Box::new(vectors))?;
    let status = Status::new(device, breaker, Arc::clone(&interrupts), report);
    let kicks = device.queues.iter().map(|_| doorbells::event());
    let link = Arc::new(Link {
        status: Arc::new(status),
        memory: MemoryTable::new(memory)?,
        kicks: kicks.collect::<Result<_, _>>()?,
        calls,
        limits,
        described: Described {
            virtio_id: device.virtio_id,
            config_space: device.config_space.clone(),
        },
        agreed: Mutex::new(Agreed::default()),
    });
    let backend = VhostUser {
        link: Arc::clone(&link),
        doorbells: Doorbells::new(Arc::clone(host)),
        patience,
        config: None,
    };
    let function = VirtioPci::new(&description, interrupts, backend)?;
    link.begin(socket, 0)?;
    Ok((function, Replacement(link)))
}

/// The way for another back end into the place of one that is gone.
#[derive(Clone)]
pub struct Replacement(Arc<Link>);

impl Replacement {
    /// Goes on with the back end at the other end of `socket`, which is the device's number `life`:
    /// it is told what its predecessors were, and takes up the queues where they ended. If that
    /// fails it is reported as any failure. A device that is not replaceable, or has failed for
    /// good, takes no other.
    pub fn connect(&self, socket: UnixStream, life: u32) {
        let Self(link) = self;
        let taken = second(&socket).map(|other| link.status.begin(other, life));
        let begun = match taken {
            Ok(false) => return,
            Ok(true) => link.begin(socket, life),
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            link.status.give_up(&error);
        }
    }

    /// Asks a back end that may be replaced whether it is alive. One that does not say so within
    /// [`Limits::call`] is lost, which is reported. Returns when that is known.
    pub fn check(&self) {
        self.0.check();
    }
}

/// Another handle to a connection.
fn second(socket: &UnixStream) -> Result<UnixStream, Error> {
    socket.try_clone().map_err(Error::Connection)
}
