//! The guest's half of a virtqueue in user space: drives a device process without a VM.
//!
//! Written from the virtio 1.2 specification and vhost-user's; it shares no ring code with the
//! devices, so that a misunderstanding on one side does not hide one on the other. For tests,
//! fuzzing and benchmarks: [`Driver::start`] does what a VMM and a guest's driver do together,
//! [`Queue`] has the correct way to use a ring and the means to abuse it.

mod frontend;
mod memory;
mod queue;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

pub use frontend::{
    F_PROTOCOL_FEATURES, Frontend, PROTOCOL_CONFIG, PROTOCOL_MQ, PROTOCOL_REPLY_ACK, Request,
    RingAddress,
};
pub use memory::{BASE, Memory};
pub use queue::{Buffer, Descriptor, F_INDIRECT, F_NEXT, F_WRITE, Queue, Used, await_readable};

/// VIRTIO_RING_F_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_RING_F_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub const F_VERSION_1: u64 = 1 << 32;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{call} failed")]
    System {
        /// Which.
        call: &'static str,
        /// Why.
        #[source]
        source: nix::errno::Errno,
    },
    /// The device closed the connection, or did not answer in time.
    #[error("the device does not answer")]
    Socket(#[source] std::io::Error),
    /// The device refused a request.
    #[error("the device refused {0:?}")]
    Refused(Request),
    /// The device's answer is none to this request.
    #[error("the device answered {0:?} with something else")]
    Answer(Request),
    /// Memory of this many bytes cannot be had.
    #[error("guest memory of {0} bytes cannot be made")]
    Size(usize),
    /// Not in guest memory.
    #[error("{length} bytes at {address:#x} are not in guest memory")]
    OutOfMemory {
        /// Guest-physical.
        address: u64,
        /// Bytes.
        length: usize,
    },
    /// Too few free descriptors.
    #[error("the queue has too few free descriptors")]
    Full,
    /// A head that is not in flight.
    #[error("the device gave back {0}, which it does not have")]
    Head(u32),
    /// Waited too long.
    #[error("the device gave nothing back in time")]
    Timeout,
}

impl Error {
    pub(crate) fn system(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |source| Self::System { call, source }
    }
}

/// How to start a device.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Bytes of guest memory.
    pub memory: usize,
    /// The size of each queue.
    pub queues: &'a [u16],
    /// Virtio features to accept if offered; [`F_VERSION_1`] always is.
    pub features: u64,
    /// How long a vhost-user request may take.
    pub patience: Duration,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            memory: 32 << 20,
            queues: &[128],
            features: F_EVENT_IDX | F_INDIRECT_DESC,
            patience: Duration::from_secs(10),
        }
    }
}

/// A device process, started, with its queues.
#[derive(Debug)]
pub struct Driver {
    /// For further requests.
    pub frontend: Frontend,
    /// The guest's memory.
    pub memory: Arc<Memory>,
    /// The queues, in the device's order.
    pub queues: Vec<Queue>,
    /// The features in force.
    pub features: u64,
}

impl Driver {
    /// Negotiates, shares memory, and starts every queue.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn start(stream: UnixStream, setup: &Setup<'_>) -> Result<Self, Error> {
        let mut frontend = Frontend::new(stream, setup.patience)?;
        frontend.set_owner()?;
        let offered = frontend.features()?;
        let wanted = setup.features | F_VERSION_1 | F_PROTOCOL_FEATURES;
        let features = offered & wanted;
        if features & F_PROTOCOL_FEATURES != 0 {
            let offered = frontend.protocol_features()?;
            let wanted = PROTOCOL_CONFIG | PROTOCOL_MQ | PROTOCOL_REPLY_ACK;
            frontend.set_protocol_features(offered & wanted)?;
        }
        frontend.set_features(features)?;
        let memory = Arc::new(Memory::new(setup.memory)?);
        frontend.set_memory(&memory)?;
        let mut driver = Self {
            frontend,
            memory,
            queues: Vec::new(),
            features,
        };
        for (index, size) in (0..).zip(setup.queues) {
            let event_index = features & F_EVENT_IDX != 0;
            let queue = Queue::new(Arc::clone(&driver.memory), *size, event_index)?;
            driver.queues.push(queue);
            driver.start_queue(index, 0)?;
        }
        Ok(driver)
    }

    /// Tells another process, behind `stream`, what guest and device have agreed on, as a VMM does
    /// when a device has died: each queue goes on where its used ring ends. What the process before
    /// may have overlooked is signalled anew.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Refused`] if it does not offer the features in force.
    pub fn resume(&mut self, stream: UnixStream, patience: Duration) -> Result<(), Error> {
        let mut frontend = Frontend::new(stream, patience)?;
        frontend.set_owner()?;
        if frontend.features()? & self.features != self.features {
            return Err(Error::Refused(Request::GetFeatures));
        }
        if self.features & F_PROTOCOL_FEATURES != 0 {
            frontend.set_protocol_features(PROTOCOL_REPLY_ACK)?;
        }
        frontend.set_features(self.features)?;
        frontend.set_memory(&self.memory)?;
        self.frontend = frontend;
        for (index, queue) in (0..).zip(&self.queues) {
            self.start_queue(index, queue.device_index()?)?;
        }
        for queue in &mut self.queues {
            queue.kick_anyway()?;
        }
        Ok(())
    }

    /// Starts a queue at 0, or again at what [`Frontend::stop_ring`] returned.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn start_queue(&self, index: u8, base: u16) -> Result<(), Error> {
        let queue = self.queues.get(usize::from(index)).ok_or(Error::Full)?;
        let ring = u32::from(index);
        self.frontend.set_ring_size(ring, queue.size())?;
        self.frontend.set_ring_base(ring, base)?;
        self.frontend.set_ring_address(ring, queue.address())?;
        self.frontend.set_ring_call(index, queue.call_fd())?;
        self.frontend.set_ring_kick(index, queue.kick_fd())?;
        self.frontend.enable_ring(ring, true)
    }
}
