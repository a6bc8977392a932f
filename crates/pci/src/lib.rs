//! PCI as a guest sees it: one bus behind an ECAM window, functions with BARs and MSI-X, and the
//! virtio-pci transport in front of any virtio device.
//!
//! Nothing here touches an operating system. A [`Bus`] is told of accesses and passes them to
//! [`PciFunction`]s; interrupts leave through an [`MsiSink`]; a virtio device is whatever
//! implements [`virtio::VirtioBackend`]. Every access of every width at every offset is legal
//! input: what lies outside a register reads as zero and is ignored when written.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod access;
mod bridge;
mod bus;
mod config;
mod ecam;
mod function;
mod msix;
pub mod virtio;

pub use bridge::HostBridge;
pub use bus::{Bus, DEVICES};
pub use config::{ConfigSpace, Identity};
pub use ecam::{ECAM_SIZE, EcamAddress};
pub use function::{BarRange, BarSize, PciFunction};
pub use msix::{MAX_VECTORS, Message, MsiSink, Msix, MsixState};

/// What can be wrong with how a bus or a function is put together, or with a saved state. Nothing
/// that a guest does is an error of this kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No such BAR, or the slot is taken, or the size is not a power of two of at least 16.
    #[error("BAR {index} of {size:#x} bytes: give a free pair below 6 and a power of two")]
    Bar {
        /// The first of the pair of BAR registers.
        index: u8,
        /// Its size in bytes.
        size: u64,
    },
    /// The capabilities fill the 192 bytes that the header leaves.
    #[error("no room in config space for a capability of {0} bytes")]
    Capability(usize),
    /// All devices of the bus are taken; it has [`DEVICES`].
    #[error("the PCI bus is full: it takes {DEVICES} devices, the host bridge included")]
    BusFull,
    /// The window for BARs is too small.
    #[error("the window for BARs, which ends at {end:#x}, has no room for {size:#x} bytes more")]
    Window {
        /// The end of the window.
        end: u64,
        /// The BAR that does not fit.
        size: u64,
    },
    /// A number of interrupt vectors that MSI-X cannot express or the layout does not hold.
    #[error("{0} interrupt vectors: 1 to {MAX_VECTORS} are possible")]
    Vectors(u16),
    /// A virtio device that the transport cannot express.
    #[error("virtio device {id} with {queues} queues: {problem}")]
    Device {
        /// The virtio device id.
        id: u16,
        /// How many queues.
        queues: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// A saved state of another version of this crate.
    #[error("the saved state has version {found}, this program knows {known}")]
    StateVersion {
        /// The version of the state.
        found: u16,
        /// The version of this program.
        known: u16,
    },
    /// A saved state that does not belong to this device.
    #[error("the saved state does not fit the device: {0}")]
    StateMismatch(&'static str),
}
