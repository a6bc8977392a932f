//! What a machine has beside its root: memory, and parts of other images.

use std::{
    fs::{File, OpenOptions},
    os::fd::AsRawFd,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount as mount_raw, umount2},
    unistd::mkdir,
};
use wire::agent::{Lower, Mount};

use crate::{
    disks,
    error::{Result, cannot, errno},
    mounts::{directory, mount_at},
    root::layers,
};

/// Where an image is put together of which a part is needed; it is nobody's to see.
const BEHIND: &str = "/dev/.part";

const NONE: Option<&str> = None;

/// Mounts something that is no share.
pub(crate) fn mount(wanted: &Mount) -> Result<()> {
    match wanted {
        Mount::Memory { path, size } => {
            let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount_at("tmpfs", path, "tmpfs", flags, &format!("mode=1777{size}"))
        }
        Mount::Part {
            lower,
            source,
            path,
            writable,
        } => {
            let shown = show(lower, source, path, *writable);
            // What is mounted elsewhere stays.
            let _ = umount2(BEHIND, MntFlags::MNT_DETACH);
            shown
        }
    }
}

fn show(lower: &Lower, source: &str, path: &str, writable: bool) -> Result<()> {
    let Lower::Layers { serial, count } = lower else {
        return Err(cannot("mount a part of what is no image")(Errno::EINVAL));
    };
    mount_at("tmpfs", BEHIND, "tmpfs", MsFlags::empty(), "mode=700")?;
    let disk = disks::find(serial)?;
    let lower = layers(&disk, *count, &format!("{BEHIND}/lower"))?;
    for name in ["upper", "work"] {
        let made = format!("{BEHIND}/{name}");
        mkdir(made.as_str(), nix::sys::stat::Mode::S_IRWXU)
            .map_err(cannot(format!("make {made}")))?;
    }
    let options =
        format!("lowerdir={lower},upperdir={BEHIND}/upper,workdir={BEHIND}/work,redirect_dir=off");
    let root = format!("{BEHIND}/root");
    mount_at("overlay", &root, "overlay", MsFlags::empty(), &options)?;
    bind(&root, source, path, writable)
}

/// Makes `source` in the tree `root` appear at `path`.
fn bind(root: &str, source: &str, path: &str, writable: bool) -> Result<()> {
    let action = || cannot(format!("mount {source} of another image at {path}"));
    let root = File::open(root).map_err(|error| action()(errno(&error)))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let source = openat2(&root, source, how).map_err(action())?;
    let source = File::from(source);
    let is_directory = source.metadata().is_ok_and(|what| what.is_dir());
    target(path, is_directory)?;
    let from = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount_raw(Some(from.as_str()), path, NONE, MsFlags::MS_BIND, NONE).map_err(action())?;
    if !writable {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount_raw(NONE, path, NONE, flags, NONE).map_err(action())?;
    }
    Ok(())
}

/// Makes what something is mounted over, unless it is there.
fn target(path: &str, is_directory: bool) -> Result<()> {
    if is_directory {
        return directory(path, 0o755);
    }
    if let Some(parent) = Path::new(path).parent().and_then(Path::to_str) {
        directory(parent, 0o755)?;
    }
    let mut open = OpenOptions::new();
    let made = open
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path);
    made.map(drop)
        .map_err(|error| cannot(format!("make {path}"))(errno(&error)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::namespaces;

    #[test]
    fn a_part_is_a_file_or_a_directory_and_links_do_not_lead_out() {
        let name = "parts::tests::a_part_is_a_file_or_a_directory_and_links_do_not_lead_out";
        namespaces::inside(name, || {
            let tree = tempfile::tempdir().unwrap();
            let tree = tree.path();
            fs::create_dir_all(tree.join("a/b")).unwrap();
            fs::write(tree.join("a/b/c"), "within").unwrap();
            std::os::unix::fs::symlink("/a/b", tree.join("link")).unwrap();
            let to = tempfile::tempdir().unwrap();
            let root = tree.to_str().unwrap();
            let at = |name: &str| to.path().join(name).to_str().unwrap().to_owned();
            bind(root, "/link", &at("d"), false).unwrap();
            assert_eq!(fs::read_to_string(at("d/c")).unwrap(), "within");
            fs::write(at("d/c"), "changed").unwrap_err();
            bind(root, "/link/c", &at("new/f"), true).unwrap();
            fs::write(at("new/f"), "changed").unwrap();
            assert_eq!(fs::read_to_string(tree.join("a/b/c")).unwrap(), "changed");
            let message = bind(root, "/no", &at("x"), true).unwrap_err().to_string();
            assert!(message.contains("/no"), "{message}");
        });
    }
}
