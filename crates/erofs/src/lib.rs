//! Writes one layer of an image as an EROFS file system, and reads such files without a mount.
//!
//! [`Layer`] takes entries in the order of an archive and writes what Linux from 5.4 on mounts: not
//! compressed, blocks of 4096 bytes, the same bytes for the same entries. [`Reader`] reads such a
//! file, whoever wrote it, and [`View`] lays several over each other as overlayfs does. No path of
//! the host is ever opened here: bytes come from and go to what the caller has open.
//!
//! The format is described in the kernel's `Documentation/filesystems/erofs.rst`.

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

mod attributes;
mod checksum;
mod directory;
mod error;
mod format;
mod layer;
mod reader;
mod source;
mod view;
mod xattrs;

pub use attributes::{Attributes, Kind, Special, Time};
pub use checksum::seal;
pub use error::{Error, Result, shown};
pub use layer::{Layer, Limits, Summary};
pub use reader::{Contents, Entries, Entry, Inode, Reader};
pub use source::ReadAt;
pub use view::{Follow, Node, View};
pub use xattrs::Xattrs;
