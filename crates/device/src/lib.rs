//! The run-time of every device process.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod report;
#[cfg(feature = "serve")]
pub mod serve;

pub use report::report;
