//! Guest kernels on the host: found, fetched, unpacked, and given an initramfs.
//!
//! [`resolve`] turns a [`Source`] into a [`Kernel`] whose `vmlinux` the VMM can load as it is;
//! [`initramfs()`] packs the agent and the modules that a machine needs; [`setup_archive`] wraps
//! what differs from machine to machine in a second, small archive. Everything that takes time is
//! kept in a [`Cache`], where only whole things ever appear: each is written under a temporary
//! name and renamed.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod bzimage;
mod cache;
pub mod cpio;
mod distribution;
mod error;
mod initramfs;
pub mod modules;
pub mod package;
mod resolve;

pub use cache::Cache;
pub use error::{Error, Result};
pub use initramfs::{initramfs, setup_archive};
pub use resolve::{Kernel, Source, cached, resolve};

/// The modules that every machine of ours needs, each with its reason. What a kernel has built in
/// costs nothing; what it does not have at all is an error.
pub const MACHINE_MODULES: &[&str] = &[
    // Every device of ours is behind the virtio-pci transport.
    "virtio_pci",
    // The root and the shares.
    "virtiofs",
    // A writable root above a read-only one.
    "overlay",
    // How the host reaches the agent.
    "vmw_vsock_virtio_transport",
];

/// The modules that a machine with a network needs besides.
pub const NETWORK_MODULES: &[&str] = &[
    // Its interface.
    "virtio_net",
];

/// The modules that a machine with a disk needs besides.
pub const BLOCK_MODULES: &[&str] = &[
    // The disk.
    "virtio_blk",
];

/// The module that a machine with a terminal needs besides.
pub const CONSOLE_MODULE: &str = "virtio_console";

/// The module that a machine needs besides whose free memory goes back to the host.
pub const BALLOON_MODULE: &str = "virtio_balloon";

/// The modules that a machine with an image for its root needs besides.
pub const IMAGE_MODULES: &[&str] = &[
    // Its layers are partitions of one disk.
    "virtio_blk",
    // The file system in each.
    "erofs",
];

/// The module for a device with a virtio id, where we know of one; others are for the guest to load.
#[must_use]
pub const fn driver(virtio_id: u16) -> Option<&'static str> {
    match virtio_id {
        1 => Some("virtio_net"),
        2 => Some("virtio_blk"),
        3 => Some(CONSOLE_MODULE),
        4 => Some("virtio_rng"),
        5 => Some(BALLOON_MODULE),
        8 => Some("virtio_scsi"),
        _ => None,
    }
}

/// The modules that a machine is better for, and runs without: those that a kernel does not have
/// are left out of the [`initramfs()`].
pub(crate) const USEFUL_MODULES: &[&str] = &[
    // The kernel's panic ends the machine as one, by the device that the VMM's ACPI tables name.
    "pvpanic_mmio",
    // The power button wakes whoever listens for it.
    "button",
];
