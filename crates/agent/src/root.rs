//! The root file system: put together, and entered.

use std::{fs, os::fd::OwnedFd};

use nix::{
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sys::stat::Mode,
    unistd::{chdir, chroot},
};
use wire::agent::{Lower, Root, Upper};

use crate::{
    disks,
    error::{Result, cannot},
    mounts::{directory, mount_at},
};

/// Where the new root is put together before it is entered.
const NEW_ROOT: &str = "/crumble/root";
const LOWER: &str = "/crumble/lower";
/// The file system with the overlay's upper and work directories, which must be on one.
const UPPER: &str = "/crumble/upper";

const NONE: Option<&str> = None;

/// Assembles the root and enters it; what the initramfs held is freed. Of an overlay, its upper
/// directory is returned, which has no path any more, and whether it is one that was used before.
pub(crate) fn enter(root: &Root) -> Result<Option<(OwnedFd, bool)>> {
    let upper = match root {
        Root::Initramfs => return Ok(None),
        Root::Direct { tag } => {
            mount_at(tag, NEW_ROOT, "virtiofs", MsFlags::empty(), "")?;
            None
        }
        Root::Overlay { lower, upper } => {
            let kept = matches!(upper, Upper::Disk { .. });
            Some((overlay(lower, upper)?, kept))
        }
    };
    // Tagged file systems made by others need not have a /dev.
    let dev = format!("{NEW_ROOT}/dev");
    directory(&dev, 0o755)?;
    mount(Some("/dev"), dev.as_str(), NONE, MsFlags::MS_MOVE, NONE)
        .map_err(cannot("move /dev to the new root"))?;
    free_initramfs();
    chdir(NEW_ROOT)
        .and_then(|()| mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(cannot("enter the new root"))?;
    Ok(upper)
}

fn overlay(lower: &Lower, upper: &Upper) -> Result<OwnedFd> {
    let (lower, redirect) = match lower {
        Lower::Tag(tag) => {
            mount_at(tag, LOWER, "virtiofs", MsFlags::MS_RDONLY, "")?;
            (LOWER.to_owned(), "on")
        }
        // A layer of an image has no word for a directory of a lower one that was renamed.
        Lower::Layers { serial, count } => {
            let disk = disks::find_early(serial)?;
            (layers(&disk, *count, LOWER)?, "off")
        }
    };
    match upper {
        Upper::Memory => mount_at("tmpfs", UPPER, "tmpfs", MsFlags::empty(), "mode=755")?,
        Upper::Disk { serial } => {
            let disk = disks::find_early(serial)?;
            mount_at(&disk, UPPER, "ext4", MsFlags::MS_NOATIME, "")?;
        }
    }
    let (upper, work) = (format!("{UPPER}/upper"), format!("{UPPER}/work"));
    directory(&upper, 0o755)?;
    directory(&work, 0o755)?;
    let options =
        format!("lowerdir={lower},upperdir={upper},workdir={work},redirect_dir={redirect}");
    mount_at("overlay", NEW_ROOT, "overlay", MsFlags::empty(), &options)?;
    open(
        upper.as_str(),
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(cannot("open what the overlay keeps"))
}

/// Mounts the layers of an image below `directory`, and returns them as overlayfs wants them: the topmost
/// first. Its options have to fit a page, which those of the most layers that an image has do with names
/// as short as these.
pub(crate) fn layers(disk: &str, count: u8, directory: &str) -> Result<String> {
    let mut lower = Vec::new();
    for number in 1..=count {
        let layer = format!("{directory}/{number}");
        mount_at(
            &format!("{disk}{number}"),
            &layer,
            "erofs",
            MsFlags::MS_RDONLY,
            "",
        )?;
        lower.push(layer);
    }
    lower.reverse();
    Ok(lower.join(":"))
}

/// The memory of files that nobody needs any more; failing costs nothing else.
fn free_initramfs() {
    for directory in ["/crumble/ko", "/crumble"] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // Directories refuse, mount points among them.
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_file("/init");
}
