//! The smallest image: one static busybox and its applets.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process,
};

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
    let busybox = find(cache)?;
    let made = cache.join(format!("busybox.{}", process::id()));
    let done = assemble(&made, &busybox).and_then(|()| publish(&made, &root));
    done.map_err(|source| Error::Cache {
        path: root.clone(),
        source,
    })?;
    Ok(root)
}

/// Another process may have been quicker; its result is as good as ours.
fn publish(made: &Path, root: &Path) -> io::Result<()> {
    match fs::rename(made, root) {
        Err(_) if root.is_dir() => fs::remove_dir_all(made),
        result => result,
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
    let list = process::Command::new(&program).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&list.stdout).lines() {
        if applet != "busybox" && !applet.contains('/') {
            symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    Ok(())
}

/// A static busybox: the host's, or the distribution's unpacked in the cache.
fn find(cache: &Path) -> Result<PathBuf, Error> {
    let installed = INSTALLED.iter().map(PathBuf::from);
    if let Some(path) = installed.into_iter().find(|path| is_static(path)) {
        return Ok(path);
    }
    let work = cache.join("busybox-package");
    let tree = work.join("tree");
    fs::create_dir_all(&tree).map_err(|source| Error::Cache {
        path: tree.clone(),
        source,
    })?;
    kernel::package::unpack(PACKAGE, &work, &tree).map_err(Error::Busybox)?;
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
