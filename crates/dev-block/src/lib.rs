//! The block device (virtio 1.2, section 5.2), a process of its own.
//!
//! The disk is a row of extents, each an open file from its beginning. Sectors move between the files
//! and guest memory with one system call and no copy here. The device opens nothing, and knows
//! nothing of partitions or file systems.

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

mod backend;
pub mod config;
mod device;
pub mod request;
mod serve;

pub use self::device::Block;
pub use backend::{Disk, FileError};
pub use serve::{Error, Process};
