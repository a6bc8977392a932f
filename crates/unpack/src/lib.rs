//! Unpacks one layer of an image: from its archive, as it came from a stranger, to an EROFS file.
//!
//! The process gets two open files and has no file system, no network and nothing else. In one pass
//! it undoes the compression, computes the digest, reads the entries, and hands them to
//! [`erofs::Layer`]. What an archive says of paths, owners, devices and attributes is data in the
//! image, never done to the host.

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

mod archive;
mod compression;
mod error;
mod layer;
mod measure;
mod process;

pub use error::Error;
pub use layer::unpack;
pub use process::Process;
