//! Between the supervisor and the vsock device, over a socket that keeps message boundaries.
//!
//! Streams travel as file descriptors: one end of a Unix stream socket pair accompanies
//! [`Request::Connect`] (made by the supervisor) and [`Event::Accepted`] (made by the device).

use serde::{Deserialize, Serialize};

/// What the vsock device is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The guest's context id, 3 to 2^32 - 2 (virtio 1.2, section 5.10.4).
    pub guest_cid: u64,
    /// Host ports that the guest may connect to.
    pub accept_ports: Vec<u32>,
}

/// Supervisor to device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Connect the accompanying stream to this port of the guest. A request made before the
    /// guest's driver is ready waits for it. If the guest refuses, the stream is closed.
    Connect {
        /// The guest's port.
        port: u32,
    },
}

/// Device to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The guest connected to this port of the host; the stream accompanies the message.
    Accepted {
        /// The host's port, one of [`Config::accept_ports`].
        port: u32,
    },
}
