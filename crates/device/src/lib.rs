//! The run-time of every device process.
//!
//! [`run`] is all that a device's `main` calls. In this order it
//!
//! 1. takes configuration and resources from the host ([`handoff::launched`]);
//! 2. checks the configuration, and refuses what cannot be served with the reason
//!    ([`Builder::prepare`]);
//! 3. closes the jail around the process, with the policy named [`Builder::COMPONENT`]
//!    ([`jailer::confine_to`]);
//! 4. says that it is ready;
//! 5. builds the device and serves it ([`Builder::serve`]).
//!
//! Nothing that a guest or a front end sent is looked at before the fourth step. With the feature
//! `serve`, [`serve`](mod@serve) has the vhost-user server for the fifth.

#![deny(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod report;
mod run;
#[cfg(feature = "serve")]
pub mod serve;

pub use handoff::{Channel, Resources};
pub use jailer::{Access, Confined, Grant};
pub use report::report;
pub use run::{Builder, EXIT_FAILED, EXIT_JAIL, EXIT_LAUNCH, run};
