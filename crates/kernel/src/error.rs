//! What can go wrong.

use std::{io, path::PathBuf};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a kernel or an initramfs cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file is neither an ELF kernel nor a bzImage.
    #[error("{path} is not a kernel: expected an ELF vmlinux or a bzImage")]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// A bzImage whose payload cannot be unpacked.
    #[error("cannot unpack the kernel in {path}: {reason}")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no cache directory to be had.
    #[error("no cache directory: set XDG_CACHE_HOME or HOME")]
    NoCache,
    /// The host has no apt.
    #[error(
        "no kernel in the cache and no apt on this host to fetch one: \
         give a vmlinux or bzImage with --kernel PATH"
    )]
    NoApt,
    /// The package lists know no kernel.
    #[error(
        "apt knows none of {tried}: run `apt-get update` as root, \
         or give a kernel with --kernel PATH"
    )]
    NoPackage {
        /// The packages that were asked for.
        tried: String,
    },
    /// A command of the package system failed.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// The command line.
        command: String,
        /// Its last words.
        reason: String,
    },
    /// A package lacks what it should contain.
    #[error("package {package} contains no {what}")]
    Package {
        /// The package.
        package: String,
        /// What is missing.
        what: &'static str,
    },
    /// No tuned kernel has been built.
    #[error("no tuned kernel at {path}: build it with `cargo xtask kernel`")]
    NoTuned {
        /// Where it would be.
        path: PathBuf,
    },
    /// The kernel neither has a module nor has it built in.
    #[error("the kernel's modules in {directory} include no {name}")]
    NoModule {
        /// The module.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A module file that is not one.
    #[error("module {path} is malformed: {reason}")]
    Module {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Modules that depend on each other.
    #[error("kernel module {0} depends on itself")]
    Cycle(String),
    /// An archive member that the format cannot hold.
    #[error("{0} does not fit a newc archive")]
    Archive(String),
    /// The setup could not be encoded.
    #[error("cannot encode the guest's setup")]
    Setup(#[from] wire::Error),
}

/// Wraps an I/O error with what was tried on what.
pub(crate) fn file(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File {
        action,
        path,
        source,
    }
}
