//! Registries: the distribution specification, from the side of a client.

mod challenge;
mod credentials;
mod remote;
mod retry;
mod session;
mod settings;

pub use credentials::Credentials;
pub use settings::{Patience, Registries, Registry};

pub(crate) use remote::Remote;
pub(crate) use retry::Watch;
