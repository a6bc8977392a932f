//! The process that owns a machine's vCPUs and memory, and nothing else.
//!
//! [`process`] takes what the supervisor handed over, closes the jail, and serves the control
//! channel; [`machine`] puts the machine together; a thread a vCPU runs [`vcpu`], whose accesses
//! go to the [`bus`]. Devices are other processes, behind [`virtio`].

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
    allow(clippy::arithmetic_side_effects, reason = "a test fails by panicking")
)]

mod bus;
mod counters;
mod devices;
mod error;
mod machine;
mod memory;
mod power;
mod process;
mod serial;
mod vcpu;
pub mod virtio;

pub use error::Error;
pub use process::run;
