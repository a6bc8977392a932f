//! virtio over PCI, the modern interface only (virtio 1.2, section 4.1): a transport in front of
//! any device, which knows nothing of what the device does.

mod backend;
mod class;
mod common;
mod interrupts;
mod layout;
mod queue;
mod state;
mod transport;

pub use backend::{Activation, BackendError, QueueSetup, VirtioBackend};
pub use interrupts::Interrupts;
pub use layout::{BAR, BAR_SIZE, MAX_QUEUES, NOTIFY_MULTIPLIER, NOTIFY_OFFSET};
pub use state::{STATE_VERSION, VirtioPciState};
pub use transport::{Description, VirtioPci};
