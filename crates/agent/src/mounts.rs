//! The guest's file systems beside the root.

use std::{
    fs::DirBuilder,
    os::unix::fs::{DirBuilderExt, symlink},
    path::Path,
};

use nix::mount::{MsFlags, mount};
use wire::agent::Share;

use crate::error::{Result, cannot, errno};

const TIGHT: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// One pseudo file system.
struct Pseudo {
    path: &'static str,
    kind: &'static str,
    flags: MsFlags,
    options: &'static str,
    /// The mode of the mount point if it has to be made.
    mode: u32,
    /// Whether a kernel may lack it.
    optional: bool,
}

const fn pseudo(path: &'static str, kind: &'static str, flags: MsFlags) -> Pseudo {
    Pseudo {
        path,
        kind,
        flags,
        options: "",
        mode: 0o755,
        optional: false,
    }
}

/// What every root gets, in this order; /dev is there already.
const PSEUDO: [Pseudo; 7] = [
    pseudo("/proc", "proc", TIGHT),
    pseudo("/sys", "sysfs", TIGHT),
    Pseudo {
        options: "mode=755",
        ..pseudo("/run", "tmpfs", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV))
    },
    Pseudo {
        // Group 5 is tty wherever there is one.
        options: "gid=5,mode=620,ptmxmode=666",
        ..pseudo(
            "/dev/pts",
            "devpts",
            MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        )
    },
    Pseudo {
        options: "mode=1777",
        ..pseudo(
            "/dev/shm",
            "tmpfs",
            MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        )
    },
    Pseudo {
        optional: true,
        ..pseudo("/dev/mqueue", "mqueue", TIGHT)
    },
    Pseudo {
        optional: true,
        options: "nsdelegate",
        ..pseudo("/sys/fs/cgroup", "cgroup2", TIGHT)
    },
];

/// The links in /dev that every program takes for granted.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Device nodes, for messages and for what the standard library opens.
pub(crate) fn early_dev() -> Result<()> {
    mount_at(
        "devtmpfs",
        "/dev",
        "devtmpfs",
        MsFlags::MS_NOSUID,
        "mode=755",
    )
}

/// /proc and its like, in whatever is the root now.
pub(crate) fn pseudo_file_systems() -> Result<()> {
    for Pseudo {
        path,
        kind,
        flags,
        options,
        mode,
        optional,
    } in PSEUDO
    {
        let result =
            directory(path, mode).and_then(|()| mount_at(kind, path, kind, flags, options));
        match result {
            Err(_) if optional => {}
            result => result?,
        }
    }
    if !Path::new("/tmp").is_dir() {
        mount_at(
            "tmpfs",
            "/tmp",
            "tmpfs",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            "mode=1777",
        )?;
    }
    for (target, link) in LINKS {
        // There already in a /dev that is not ours.
        let _ = symlink(target, link);
    }
    Ok(())
}

/// Mounts a share at its path.
pub(crate) fn share(share: &Share) -> Result<()> {
    let flags = if share.read_only {
        MsFlags::MS_RDONLY
    } else {
        MsFlags::empty()
    };
    mount_at(&share.tag, &share.path, "virtiofs", flags, "")
}

/// Mounts `from` at `to`, which is made if need be.
pub(crate) fn mount_at(
    from: &str,
    to: &str,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> Result<()> {
    directory(to, 0o755)?;
    mount(Some(from), to, Some(kind), flags, Some(options))
        .map_err(cannot(format!("mount {kind} {from} at {to}")))
}

/// Makes a directory with its parents unless it exists.
pub(crate) fn directory(path: &str, mode: u32) -> Result<()> {
    if Path::new(path).is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| cannot(format!("make the directory {path}"))(errno(&error)))
}
