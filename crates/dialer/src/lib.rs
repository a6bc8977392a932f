//! The dialer: makes the sockets that a guest's connections and datagrams leave the host through.
//!
//! The network device asks for them ([`wire::net`]); the machine's egress policy decides. Connected
//! TCP sockets go to the device and are its own from then on. Datagrams pass through here, one
//! socket for each port of the guest's, and so do the guest's questions to the host's name servers.
//! Nothing that the guest wrote is parsed but the head of a DNS question, to tell answers apart.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod answer;
pub mod config;
mod connects;
mod deadlines;
mod dialer;
mod dns;
mod echo;
mod egress;
mod error;
mod errors;
mod flows;
mod link;
mod listeners;
mod outside;
mod poller;
mod process;
mod streams;
mod table;

pub use crate::dialer::{Dialer, Links};
pub use egress::{Judge, Judgement};
pub use error::Error;
pub use process::Process;
