//! A box with a real KVM, for hosts that have none or an emulated one.
//!
//! The box is a virtual machine in QEMU's TCG, which emulates a processor *with* hardware
//! virtualization: a stock Linux in it offers a stock `/dev/kvm`. Its root is the host's `/`,
//! read-only below and discarded with the box; the workspace and the cache are shared at their own
//! paths and written through, and what the host reaches it reaches through QEMU's sockets. So a test
//! or a machine runs in it as it would run here.
//!
//! One box serves many callers, and a [`Pool`] of them gives each caller one to itself. A *keeper*
//! process ([`keep`]) owns QEMU, the processes that serve the file systems, and our own vsock
//! device, which is launched as it is in production: a [`Machine`]. Clients
//! ([`Testbed::open`]) find the keeper by a socket, start it if there is none, and get streams to
//! the box's agent from it. The keeper ends the box when nobody used it for a minute, when it is
//! told to ([`down`]), and when any part of it dies; its parts die with it.

#![forbid(unsafe_code)]

mod build;
mod client;
mod design;
mod error;
mod exec;
mod here;
mod keeper;
mod launch;
mod machine;
mod place;
mod pool;
mod protocol;
mod tools;

pub use build::{PRODUCTS, Product, TARGET, build};
pub use client::{Testbed, directory_for, down, down_for};
pub use error::{Error, Result};
pub use exec::{Command, Output};
pub use here::{Here, IN_THE_BOX, announce, here_or_boxes, why_not_here};
pub use keeper::keep;
pub use machine::{Design, Machine};
pub use place::{BIN_DIR, bin_dir, workspace};
pub use pool::Pool;
pub use protocol::Status;
pub use tools::{Tool, missing};
