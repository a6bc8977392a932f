//! A guest put together in memory: an ELF kernel, its initramfs, its command line, and the tables
//! that describe the machine to it. What comes back is where to begin.

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

pub mod acpi;
mod elf;
mod initramfs;
pub mod layout;
mod pvh;

use std::{fs::File, io};

use vm_memory::{GuestMemoryError, GuestMemoryMmap};

pub use layout::Layout;

/// Why a guest cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel cannot be read.
    #[error("cannot read the kernel")]
    Read(#[source] io::Error),
    /// The kernel is not one that this crate loads.
    #[error("the kernel is not a bootable one: {0}")]
    Kernel(&'static str),
    /// The initramfs cannot be read.
    #[error("cannot read the initramfs")]
    Initramfs(#[source] io::Error),
    /// The guest's memory is too small.
    #[error(
        "{what} does not fit into the guest's memory: it needs {needed} MiB below 3 GiB; give the \
         machine more memory"
    )]
    TooSmall {
        /// What did not fit.
        what: &'static str,
        /// How much memory would do, in MiB.
        needed: u64,
    },
    /// The command line is too long.
    #[error("the kernel's command line has {0} bytes, {max} are possible", max = layout::COMMAND_LINE_MAX)]
    CommandLine(usize),
    /// Guest memory is not as the layout says.
    #[error("cannot write guest memory")]
    Memory(#[from] GuestMemoryError),
    /// The tables are larger than the space for them.
    #[error("the ACPI tables do not fit into their {} KiB", layout::ACPI_SIZE >> 10)]
    Tables,
}

/// Where a guest begins: 32-bit protected mode without paging (Xen, docs/misc/pvh.pandoc).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The instruction pointer.
    pub rip: u32,
    /// The address of `hvm_start_info`, for EBX.
    pub start_info: u32,
}

/// What a guest is put together from.
#[derive(Debug)]
pub struct Guest<'a> {
    /// An ELF kernel with a PVH entry point.
    pub kernel: &'a File,
    /// Archives that are one initramfs together.
    pub initramfs: &'a [File],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Number of CPUs, their APIC ids from 0.
    pub cpus: u8,
}

/// Loads a guest into `memory`, which is laid out as `layout` says.
///
/// # Errors
/// If the kernel is not one, or something does not fit.
pub fn load(guest: &Guest<'_>, memory: &GuestMemoryMmap, layout: &Layout) -> Result<Entry, Error> {
    let kernel = elf::load(guest.kernel, memory, layout)?;
    let initramfs = initramfs::load(guest.initramfs, memory, layout, kernel.end)?;
    let rsdp = acpi::write(memory, layout, guest.cpus)?;
    let start_info = pvh::write(memory, layout, guest.command_line, initramfs, rsdp)?;
    Ok(Entry {
        rip: kernel.entry,
        start_info,
    })
}
