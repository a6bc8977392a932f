//! The memory balloon device (virtio 1.2, section 5.5), a process of its own.
//!
//! It takes no memory from a guest: it hears of pages that the guest's kernel has free (section 5.5.6.7,
//! free page reporting), and gives them back to the host.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod device;
mod serve;

pub use self::device::Balloon;
pub use serve::{Error, Process};
