//! vhost-user devices behind the virtio-pci transport, whatever they are.
//!
//! The data path does not pass here: a queue's notification is a doorbell whose event the back
//! end waits on, and a queue's interrupt is an event that the hypervisor turns into an MSI. What
//! passes here is configuration, and nothing that the back end answers is trusted: sizes are
//! ours, features are masked, and every wait has an end.

mod backend;
mod config_size;
mod doorbells;
mod error;
mod handshake;
mod host;
mod memory;
mod status;
mod vectors;
mod watch;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pci::virtio::{Description, Interrupts, VirtioPci};
use vhost::vhost_user::Frontend;
use vm_memory::GuestMemoryMmap;
use wire::vmm::Device;

pub use backend::VhostUser;
pub use error::Error;
pub use host::{Host, Interrupt};
pub use status::Report;

use doorbells::Doorbells;
use memory::MemoryTable;
use status::Status;
use vectors::Vectors;
use watch::{Breaker, Watcher};

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
/// A back end that fails, now or later, is reported once; the guest sees `DEVICE_NEEDS_RESET`,
/// and no features from then on. Dropping the function closes the connection.
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
) -> Result<VirtioPci<VhostUser<H>>, Error> {
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
    let second = || socket.try_clone().map_err(Error::Connection);
    let breaker = Arc::new(Breaker::new(second()?));
    let (vectors, calls) = Vectors::new(host.as_ref(), vectors, Arc::clone(&breaker))?;
    let interrupts = Interrupts::new(calls.count(), Box::new(vectors))?;
    let name = device.name.clone();
    let status = Arc::new(Status::new(
        name,
        second()?,
        Arc::clone(&interrupts),
        report,
    ));
    let watcher = Arc::new(Watcher::start(breaker, Arc::clone(&status))?);
    let frontend = Frontend::from_stream(socket, queues as u64);
    let backend = VhostUser {
        status: Arc::clone(&status),
        watcher: Arc::clone(&watcher),
        frontend: frontend.clone(),
        memory: MemoryTable::new(memory)?,
        doorbells: Doorbells::new(Arc::clone(host), queues)?,
        calls,
        limits,
        patience,
        config: None,
        active: Vec::new(),
    };
    let function = VirtioPci::new(&description, interrupts, backend)?;
    let id = device.virtio_id;
    thread::Builder::new()
        .name("device-hello".into())
        .spawn(move || begin(frontend, id, queues, limits.handshake, &status, &watcher))
        .map_err(Error::Thread)?;
    Ok(function)
}

/// The handshake's thread.
fn begin(
    mut frontend: Frontend,
    virtio_id: u16,
    queues: usize,
    limit: Duration,
    status: &Status,
    watcher: &Watcher,
) {
    match watcher.within(limit, || handshake::run(&mut frontend, virtio_id, queues)) {
        Ok(offer) => status.ready(offer),
        Err(error) => status.fail(&error),
    }
}
