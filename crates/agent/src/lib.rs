//! The guest's init: assembles the root file system, then runs commands for the host.
//!
//! It is two processes. Process 1 sets the guest up ([`run`]), forks, and from then on only reaps
//! orphans. Its child serves the host ([`serve::Agent`]) with a thread a connection, and waits for
//! nobody's children but its own.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod boot;
mod changes;
mod command;
mod disks;
mod error;
mod files;
mod modules;
mod mounts;
mod names;
#[cfg(test)]
mod namespaces;
mod network;
mod parts;
mod ports;
mod pump;
mod root;
pub mod serve;
mod session;
mod shutdown;
mod spawn;
mod splice;
mod sys;
mod terminal;
mod users;
mod vsock;

pub use boot::run;
