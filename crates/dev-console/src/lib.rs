//! The console device (virtio 1.2, section 5.3), a process of its own.
//!
//! Each port is a terminal of the guest's, `/dev/hvc0` and those after it, and a socket on the host, whose
//! other end says what was typed and how large the terminal is ([`wire::console`]).

#![forbid(unsafe_code)]
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

pub mod control;
mod device;
mod port;
mod serve;

pub use self::device::Console;
pub use port::Port;
pub use serve::{Error, Process};
