//! Builds an image from a Dockerfile: the file is a list of layers, run by somebody else.
//!
//! This crate reads the Dockerfile and `.dockerignore`, replaces variables, decides which stages are
//! needed and what is in the cache, makes the layers of `COPY` and `ADD`, and keeps the image's
//! configuration as it grows. Whatever needs a machine, a registry or a store it asks of a [`Worker`].
//!
//! [`build`] is the whole of it. The dialect is the one of `docker/dockerfile:1` (Dockerfile reference,
//! docs.docker.com/reference/dockerfile); what is not done is refused with a reason.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod archive;
mod cache;
mod chmod;
mod config;
mod context;
mod copy;
mod error;
mod evaluate;
mod files;
mod glob;
mod healthcheck;
mod ignore;
mod instruction;
mod layer;
mod mounts;
mod parse;
mod root;
mod run;
mod stage;
mod state;
mod variables;
mod words;
mod worker;

pub use cache::Key;
pub use config::{Config, Empty, Healthcheck, History};
pub use context::Context;
pub use error::{BoxError, Error};
pub use evaluate::{Built, Options, build};
pub use ignore::Ignore;
pub use mounts::{Mount, MountKind, Owner, Sharing};
pub use root::{Entry, Kind, Root};
pub use worker::{Base, Fetched, Layer, Network, Run, Script, Step, Worker};

/// Reads a Dockerfile and forgets it; for fuzzing.
///
/// # Errors
///
/// What [`build`] would say of it before anything is done.
pub fn check(file: &str, bytes: &[u8]) -> Result<(), Error> {
    parse::parse(file, bytes)
        .and_then(|parsed| instruction::all(&parsed))
        .map(drop)
}
