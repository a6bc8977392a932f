//! Where packets go.

use std::io;
use std::time::Instant;

use device::serve::{Buffers, Readiness, Sources};

use crate::packet::Mac;
use crate::receive::Receive;

/// How a pass over something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// There is nothing to do until something happens.
    Finished,
    /// There is more to do, after others had their turn.
    Unfinished,
}

/// The other end of the guest's cable. One thread calls it, and no call waits.
pub(crate) trait Backend: Send {
    /// Feature bits that it offers beside those that every one has.
    fn features(&self) -> u64;

    /// The driver chose these. May be called at any time.
    fn negotiated(&mut self, features: u64);

    /// Called once, before all else. Its tokens begin at `first`.
    ///
    /// # Errors
    /// If something cannot be watched.
    fn attach(&mut self, sources: Sources, first: u16) -> io::Result<()>;

    /// A new driver has taken over: nobody knows of what was before.
    fn reset(&mut self);

    /// The guest's hardware address, which it may change.
    fn set_mac(&mut self, mac: Mac);

    /// A packet of the guest's, from `struct virtio_net_hdr` on, and the pair of queues it came by.
    fn transmit(&mut self, packet: Buffers<'_>, pair: u16, now: Instant);

    /// One of its sources, without the first token's number.
    fn ready(&mut self, token: u16, readiness: Readiness, now: Instant);

    /// When it wants to be called though nothing happens.
    fn deadline(&self) -> Option<Instant>;

    /// Delivers what there is. Called after everything else.
    fn receive(&mut self, receive: &mut Receive<'_, '_>, now: Instant) -> Pass;
}
