//! Files of the guest with content of ours, in whatever root it has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::statfs::{FUSE_SUPER_MAGIC, statfs},
};

use crate::error::{Error, Result, cannot, errno};

/// How many links may lead to a file, as in path_resolution(7).
const LINKS: usize = 40;

/// Where files are that are mounted over others; a tmpfs.
const COVERS: &str = "/run/crumble";

/// Makes `path` hold `content`. Links stay and what they lead to is made. A file that cannot be
/// written is covered by a mount, and so is the host's, which is never written.
pub(crate) fn put(path: &str, content: &[u8]) -> Result<()> {
    put_unless(path, content, is_the_host_s)
}

fn put_unless(path: &str, content: &[u8], spared: impl Fn(&Path) -> bool) -> Result<()> {
    let target = follow(path.as_ref())?;
    if target.exists() && !target.is_file() {
        let target = target.display();
        return Err(cannot(format!("write {path}: {target} is no file"))(
            Errno::EINVAL,
        ));
    }
    if !spared(&target) && write(&target, content).is_ok() {
        return Ok(());
    }
    let cover = Path::new(COVERS).join(target.file_name().unwrap_or_default());
    if spared(&cover) {
        return Err(write_failed(&cover)(Errno::EROFS));
    }
    write(&cover, content).map_err(|error| write_failed(&cover)(errno(&error)))?;
    mount_over(&target, &cover)
}

/// Where `path` leads through links, the last of which may lead to nothing.
fn follow(path: &Path) -> Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..LINKS {
        let Ok(link) = fs::read_link(&target) else {
            return Ok(target);
        };
        // An absolute one replaces the whole.
        target = target.parent().unwrap_or(Path::new("/")).join(link);
    }
    Err(cannot(format!("follow {}", path.display()))(Errno::ELOOP))
}

/// Whether writing to `path` would write to a directory of the host: a share, or a root that is
/// one.
fn is_the_host_s(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.exists());
    let kind = existing.and_then(|path| statfs(path).ok());
    kind.is_some_and(|kind| kind.filesystem_type() == FUSE_SUPER_MAGIC)
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, content)
}

fn mount_over(target: &Path, cover: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(Some(cover), target, none, MsFlags::MS_BIND, none).map_err(cannot(format!(
        "mount {} over {}",
        cover.display(),
        target.display()
    )))
}

fn write_failed(path: &Path) -> impl FnOnce(Errno) -> Error {
    cannot(format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::unistd::chroot;

    use super::*;
    use crate::namespaces;

    const PATH: &str = "/etc/resolv.conf";

    /// An empty root with a /etc and a /run, which this process enters.
    fn enter_empty_root() {
        let root = std::env::temp_dir();
        let none = None::<&str>;
        mount(none, &root, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        std::env::set_current_dir(&root).unwrap();
        chroot(".").unwrap();
        fs::create_dir("/etc").unwrap();
        fs::create_dir("/run").unwrap();
    }

    fn content(path: &str) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn is_link(path: &str) -> bool {
        fs::symlink_metadata(path).unwrap().is_symlink()
    }

    /// Whether a file system is mounted at `path`.
    fn is_covered(path: &str) -> bool {
        use std::os::unix::fs::MetadataExt;
        let inode = |path: &str| fs::metadata(path).unwrap().ino();
        inode(path) == inode("/run/crumble/resolv.conf")
    }

    #[test]
    fn a_file_that_is_there_or_not_is_written() {
        namespaces::inside(
            "files::tests::a_file_that_is_there_or_not_is_written",
            || {
                enter_empty_root();
                put(PATH, b"new").unwrap();
                put(PATH, b"newer").unwrap();
                assert_eq!(content(PATH), "newer");
                fs::remove_dir_all("/etc").unwrap();
                put(PATH, b"alone").unwrap();
                assert_eq!(content(PATH), "alone");
                assert!(!Path::new(COVERS).exists());
            },
        );
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_made_or_written() {
        let name = "files::tests::a_link_stays_and_what_it_leads_to_is_made_or_written";
        namespaces::inside(name, || {
            enter_empty_root();
            for link in [
                "/run/systemd/resolve/stub-resolv.conf",
                "../run/systemd/resolve/stub-resolv.conf",
            ] {
                symlink(link, PATH).unwrap();
                for text in ["made", "written"] {
                    put(PATH, text.as_bytes()).unwrap();
                    assert!(is_link(PATH));
                    assert_eq!(content("/run/systemd/resolve/stub-resolv.conf"), text);
                }
                fs::remove_file(PATH).unwrap();
                fs::remove_dir_all("/run/systemd").unwrap();
            }
        });
    }

    #[test]
    fn links_in_a_circle_and_directories_are_refused() {
        let name = "files::tests::links_in_a_circle_and_directories_are_refused";
        namespaces::inside(name, || {
            enter_empty_root();
            symlink("resolv.conf", PATH).unwrap();
            let error = wire::chain(&put(PATH, b"").unwrap_err());
            assert!(error.contains("ELOOP"), "{error}");
            fs::remove_file(PATH).unwrap();
            fs::create_dir(PATH).unwrap();
            let error = put(PATH, b"").unwrap_err().to_string();
            assert!(error.contains("is no file"), "{error}");
        });
    }

    #[test]
    fn a_root_that_is_read_only_is_covered_where_there_is_a_file() {
        let name = "files::tests::a_root_that_is_read_only_is_covered_where_there_is_a_file";
        namespaces::inside(name, || {
            enter_empty_root();
            fs::write(PATH, "old").unwrap();
            let none = None::<&str>;
            mount(none, "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
            let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, "/", none, read_only, none).unwrap();
            put(PATH, b"new").unwrap();
            assert_eq!(content(PATH), "new");
            assert!(is_covered(PATH));
            let error = put("/etc/hosts", b"new").unwrap_err().to_string();
            assert!(error.contains("over /etc/hosts"), "{error}");
        });
    }

    #[test]
    fn what_is_the_host_s_is_covered_and_never_written() {
        let name = "files::tests::what_is_the_host_s_is_covered_and_never_written";
        namespaces::inside(name, || {
            enter_empty_root();
            fs::write(PATH, "the host's").unwrap();
            let spared = |path: &Path| path.starts_with("/etc");
            put_unless(PATH, b"ours", spared).unwrap();
            assert_eq!(content(PATH), "ours");
            assert!(is_covered(PATH));
            nix::mount::umount(PATH).unwrap();
            assert_eq!(content(PATH), "the host's");
            assert!(put_unless("/etc/hosts", b"ours", spared).is_err());
            assert!(!Path::new("/etc/hosts").exists());
            assert!(put_unless(PATH, b"ours", |_| true).is_err());
            assert_eq!(content(PATH), "the host's");
            // A link out of it is another matter.
            fs::remove_file(PATH).unwrap();
            symlink("/run/resolv.conf", PATH).unwrap();
            put_unless(PATH, b"ours", spared).unwrap();
            assert_eq!(content("/run/resolv.conf"), "ours");
        });
    }
}
