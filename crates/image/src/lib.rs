//! Images: what their names mean, where they are fetched from, and the store of what was fetched.
//!
//! A [`Store`] is a directory. [`Store::get`] makes sure that an image is whole in it: it fetches what
//! is missing from a registry, a layout or an archive, and gives each layer to an [`Unpack`], which
//! makes one file system image of it. What a registry sends is used only after its size and its digest
//! have been checked; what is in the store under its final name is whole.
//!
//! Every function blocks. Processes and threads may use one store at the same time.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod bundle;
mod config;
mod digest;
mod error;
mod fetch;
mod manifest;
mod origin;
mod platform;
mod progress;
mod registry;
mod store;
mod text;

pub use config::{Config, Healthcheck};
pub use digest::Digest;
pub use error::{Error, Result};
pub use fetch::fetch;
pub use manifest::{Compression, Descriptor, Document, Index, Manifest, parse};
pub use platform::Platform;
pub use progress::{Item, Progress, Step};
pub use registry::{Credentials, Patience, Registries, Registry};
pub use store::{
    Blob, Format, Hold, Layer, Policy, Pruned, Pull, Raw, Store, Stored, Summary, Unpack,
};
