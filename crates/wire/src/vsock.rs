//! Between the supervisor and the vsock device, over a socket that keeps message boundaries.
//!
//! Streams travel as file descriptors: one end of a Unix stream socket pair accompanies
//! [`Request::Connect`] (made by the supervisor) and [`Event::Accepted`] (made by the device). The
//! supervisor keeps a copy of the device's end, so that a device that takes another's place finds
//! the streams as the other left them; what it has to know of them is in the journal.

use serde::{Deserialize, Serialize};

/// What the vsock device is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The guest's context id, 3 to 2^32 - 2 (virtio 1.2, section 5.10.4).
    pub guest_cid: u64,
    /// Host ports that the guest may connect to.
    pub accept_ports: Vec<u32>,
}

/// Bytes of the device's journal, a file of memory that is the resource `journal`. It is empty for the
/// first process, and what the last one wrote for any other.
pub const JOURNAL_SIZE: u64 = 130_301_952;

/// The device numbers the streams that it makes with this bit, the supervisor its own without it.
pub const ACCEPTED: u32 = 1 << 31;

/// A stream and its number, which no other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// The number.
    pub id: u32,
    /// The port that it was meant for.
    pub port: u32,
}

/// Supervisor to device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The accompanying streams are those that a device before this one may have served. It comes
    /// before everything else, as often as it takes.
    Resume(Vec<Stream>),
    /// There are no more of these, and the device may begin.
    Begin,
    /// Connect the accompanying stream to its port of the guest. A request made before the
    /// guest's driver is ready waits for it. If the guest refuses, the stream is closed. Numbers
    /// grow.
    Connect(Stream),
}

/// Device to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The guest connected to this port of the host, one of [`Config::accept_ports`]. Both ends of
    /// the stream accompany the message, first the one that is not the device's.
    Accepted(Stream),
}
