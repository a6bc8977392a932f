//! Directories that come from outside of the jail, as mounts of their own.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use crate::inside::Access;
use crate::sys;
use crate::{Error, Result};

/// A mount of `directory`'s own, with what is mounted below it, instead of a place in the host's
/// tree: `..` ends at the directory, and with [`Access::Read`] the kernel refuses every change
/// below it. Landlock alone would allow both a look at what is above, and changes of modes,
/// owners, times and attributes everywhere.
///
/// To be called in a component before [`crate::confine`], while it may still mount.
///
/// # Errors
/// [`Error::Confine`], also if the directory has been moved or removed since it was opened.
pub fn subtree(directory: BorrowedFd<'_>, access: Access) -> Result<OwnedFd> {
    take(directory, access).map_err(|error| {
        let hint = "; it must be reachable by its path, and /proc mounted, where crumble runs";
        Error::Confine("mount the directory that it is to work on", hint, error)
    })
}

fn take(directory: BorrowedFd<'_>, access: Access) -> io::Result<OwnedFd> {
    // The descriptor is of the host's mount namespace, which is not ours to copy from. The same
    // place in our own copy of that namespace has the same path.
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = std::fs::read_link(link)?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let tree = sys::clone_tree(&path)?;
    if identity(tree.as_fd())? != identity(directory)? {
        return Err(io::Error::other("another directory has its path now"));
    }
    sys::restrict_mounts(tree.as_fd(), access == Access::Read, false)?;
    Ok(tree)
}

/// What tells one directory from another.
fn identity(directory: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let metadata = File::from(directory.try_clone_to_owned()?).metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}
