//! The virtio socket device (virtio 1.2, section 5.10), a process of its own.
//!
//! Packets from the guest become bytes on Unix streams and the other way round. The streams come
//! from the supervisor and go to it over the control channel ([`wire::vsock`]); the device opens
//! nothing by itself.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod backend;
pub mod config;
mod device;
mod inbox;
mod journal;
pub mod request;
mod serve;
mod table;

pub use self::device::{Accepted, Legacy, Vsock};
pub use inbox::{Inbox, Wake};
pub use serve::{Error, Process};
