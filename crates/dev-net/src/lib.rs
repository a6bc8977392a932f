//! The network device (virtio 1.2, section 5.1), a process of its own.
//!
//! Packets from the guest go to one of two back ends: the network in user mode, where each
//! connection of the guest's becomes a socket of the host that the dialer makes, or a TAP device,
//! which takes them as they are. The device opens nothing by itself.

#![deny(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test fails by panicking"
    )
)]

mod backend;
mod bytes;
mod checksum;
pub mod config;
mod control;
mod device;
pub mod header;
mod packet;
mod pcap;
mod rate;
mod receive;
mod serve;
mod tap;
mod user;

pub use self::device::Net;
pub use serve::{Error, OtherEnd, Process};
