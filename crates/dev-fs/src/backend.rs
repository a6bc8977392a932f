//! The one host resource: a directory, served from an open descriptor.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::fchdir;
use virtiofsd::passthrough;

use crate::Error;

/// sysfs's magic number (`linux/magic.h`).
const SYSFS_MAGIC: FsType = FsType(0x6265_6572);

/// Descriptors that are ours, not the guest's: sockets, eventfds, epoll, memory regions, what is
/// open for the moment of a request, each several times over.
const RESERVED_FDS: u64 = 128;

/// What the passthrough file system is made from.
pub(crate) struct Directory {
    /// virtiofsd's configuration.
    pub(crate) config: passthrough::Config,
    /// Names in the directory whose contents are the host kernel's, not the directory's.
    pub(crate) closed: Vec<CString>,
}

impl Directory {
    /// Makes `root` the working directory, which is how virtiofsd is given it by descriptor: it
    /// opens `.`. No path is used, so it does not matter what the process's root is by now.
    pub(crate) fn enter(
        config: &wire::fs::Config,
        root: OwnedFd,
        proc_self_fd: OwnedFd,
    ) -> Result<Self, Error> {
        fchdir(&root).map_err(Error::Enter)?;
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(Error::Limit)?;
        let limit = limit.saturating_sub(RESERVED_FDS).max(1);
        Ok(Self {
            config: crate::config::passthrough(config, File::from(proc_self_fd), limit),
            closed: kernels_own(root.as_fd()),
        })
    }
}

/// Which of `proc` and `sys` in `root` is the host kernel's file system. The host's processes and
/// its knobs are not files to share, least of all to a guest that may write; and a guest has its
/// own to mount there.
fn kernels_own(root: BorrowedFd<'_>) -> Vec<CString> {
    [c"proc", c"sys"]
        .into_iter()
        .filter(|name| {
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            openat2(root, *name, how)
                .and_then(fstatfs)
                .is_ok_and(|fs| [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&fs.filesystem_type()))
        })
        .map(CString::from)
        .collect()
}
