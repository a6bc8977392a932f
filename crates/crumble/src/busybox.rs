//! The smallest image: one static busybox and its applets.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::Error;

/// Where a static busybox is installed by distributions.
const INSTALLED: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// The package that has it, with the name it has on Debian and its relatives.
const PACKAGE: &str = "busybox-static";

/// Files besides the programs.
const FILES: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
];

const DIRECTORIES: [&str; 10] = [
    "bin", "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "var",
];

/// A directory with the image, made in `cache` if it is not there.
///
/// # Errors
/// [`Error::Busybox`] if there is no busybox and none can be had, [`Error::Cache`] if the cache
/// cannot be written.
pub(crate) fn root(cache: &Path) -> Result<PathBuf, Error> {
    let root = cache.join("busybox");
    if root.is_dir() {
        return Ok(root);
    }
    let failed = |source| Error::Cache {
        path: root.clone(),
        source,
    };
    let work = unfinished(cache).map_err(failed)?;
    let busybox = find(work.path())?;
    make(&root, &busybox, cache).map_err(failed)?;
    Ok(root)
}

/// A directory that nobody else has, not even a process with our number in another box.
fn unfinished(cache: &Path) -> io::Result<TempDir> {
    fs::create_dir_all(cache)?;
    tempfile::Builder::new()
        .prefix(".unfinished-busybox-")
        .tempdir_in(cache)
}

fn make(root: &Path, busybox: &Path, cache: &Path) -> io::Result<()> {
    let made = unfinished(cache)?;
    assemble(made.path(), busybox)?;
    match fs::rename(made.path(), root) {
        Ok(()) => {
            // It is no longer at the path that would be removed.
            let _ = made.keep();
            Ok(())
        }
        // Another one was quicker; its result is as good as ours.
        Err(_) if root.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn assemble(root: &Path, busybox: &Path) -> io::Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    for (path, text) in FILES {
        fs::write(root.join(path), text)?;
    }
    let program = root.join("bin/busybox");
    fs::copy(busybox, &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    // Not the copy: a file that was just written cannot be run while a process that another thread
    // began in the meantime still has it open.
    let list = Command::new(busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&list.stdout).lines() {
        if applet != "busybox" && !applet.contains('/') {
            symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    Ok(())
}

/// A static busybox: the host's, or the distribution's unpacked in `work`.
fn find(work: &Path) -> Result<PathBuf, Error> {
    let installed = INSTALLED.iter().map(PathBuf::from);
    if let Some(path) = installed.into_iter().find(|path| is_static(path)) {
        return Ok(path);
    }
    let tree = work.join("tree");
    fs::create_dir(&tree).map_err(|source| Error::Cache {
        path: tree.clone(),
        source,
    })?;
    kernel::package::unpack(PACKAGE, work, &tree).map_err(Error::Busybox)?;
    Ok(tree.join("bin/busybox"))
}

/// An ELF file without an interpreter: searching for the interpreter's name is enough, since a
/// dynamic program has it near its beginning (ELF, program header `PT_INTERP`).
fn is_static(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| {
        let head = bytes.get(..4096).unwrap_or(&bytes);
        bytes.starts_with(b"\x7fELF") && !head.windows(4).any(|window| window == b"/ld-")
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn many_make_the_image_at_once_and_one_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (cache, busybox) = (directory.path().join("cache"), directory.path().join("b"));
        fs::write(&busybox, "#!/bin/sh\necho busybox\necho ls\n").unwrap();
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).unwrap();
        let root = cache.join("busybox");
        thread::scope(|scope| {
            let makers: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| make(&root, &busybox, &cache)))
                .collect();
            for maker in makers {
                maker.join().unwrap().unwrap();
            }
        });
        let kept: Vec<_> = fs::read_dir(&cache).unwrap().collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(
            fs::metadata(&root).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(
            fs::read_link(root.join("bin/ls")).unwrap(),
            Path::new("busybox")
        );
        assert!(!root.join("bin/busybox").is_symlink());
    }
}
