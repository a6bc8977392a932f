//! The distribution's kernel, fetched as a package and unpacked, never installed.
//!
//! `kernels/distribution` in the cache is a symbolic link to the directory of one package version,
//! which holds `vmlinux`, `release` and `modules`. The link appears last, so what it leads to is
//! whole. Those who fetch hold a lock; those who find the link need none.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::{
    bzimage,
    cache::{Cache, TEMPORARY, temporary_name},
    error::{Error, Result, file},
    package::{self, first_entry},
    resolve::{Kernel, unpack},
};

/// Packages that depend on the current kernel, the smallest first: Debian's for virtual machines,
/// Ubuntu's two, then the general ones of both.
#[cfg(target_arch = "x86_64")]
const PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "linux-image-kvm",
    "linux-image-virtual",
    "linux-image-amd64",
    "linux-image-generic",
];
/// As for x86-64.
#[cfg(not(target_arch = "x86_64"))]
const PACKAGES: &[&str] = &[
    "linux-image-cloud-arm64",
    "linux-image-kvm",
    "linux-image-virtual",
    "linux-image-arm64",
    "linux-image-generic",
];

pub(crate) fn resolve(cache: &Cache, progress: &mut dyn FnMut(&str)) -> Result<Kernel> {
    let kernels = cache.kernels();
    if let Some(kernel) = cached(&kernels) {
        return Ok(kernel);
    }
    fs::create_dir_all(&kernels).map_err(file("make the directory", &kernels))?;
    let lock =
        fs::File::create(kernels.join(".lock")).map_err(file("open the lock in", &kernels))?;
    if lock.try_lock().is_err() {
        progress("waiting for another process that fetches the kernel");
        lock.lock().map_err(file("take the lock in", &kernels))?;
    }
    // Whoever held the lock may have fetched it.
    if let Some(kernel) = cached(&kernels) {
        return Ok(kernel);
    }
    remove_unfinished(&kernels);
    let work = kernels.join(temporary_name());
    let result = fetch(&kernels, &work, progress);
    // Removed by the next fetch if not by this one.
    let _ = fs::remove_dir_all(&work);
    result?;
    cached(&kernels).ok_or_else(|| Error::Package {
        package: "of the kernel".into(),
        what: "vmlinux",
    })
}

/// The kernel behind the link, at the price of a few system calls.
pub(crate) fn cached(kernels: &Path) -> Option<Kernel> {
    let directory = kernels.join(fs::read_link(kernels.join("distribution")).ok()?);
    let release = fs::read_to_string(directory.join("release")).ok()?;
    let vmlinux = directory.join("vmlinux");
    let modules = directory.join("modules");
    (vmlinux.is_file() && modules.is_dir()).then_some(Kernel {
        vmlinux,
        release,
        modules: Some(modules),
        // Debian and Ubuntu build without CONFIG_MODULE_SIG_FORCE.
        keep_signatures: false,
    })
}

/// What a fetch that was killed left behind. Only called with the lock held.
fn remove_unfinished(kernels: &Path) {
    for entry in fs::read_dir(kernels).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
    }
}

/// Fetches, unpacks, and makes the link. `work` is on the same file system as `kernels`.
fn fetch(kernels: &Path, work: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    progress("asking apt for the distribution's kernel");
    let package = find_package()?;
    let tree = work.join("tree");
    fs::create_dir_all(&tree).map_err(file("make the directory", &tree))?;
    progress(&format!("fetching {package}"));
    let stem = package::unpack(&package, work, &tree)?;
    // Ubuntu keeps the modules in a package of their own.
    if modules_in(&tree).is_none() {
        let modules = dependency(&package, "linux-modules-")?.ok_or_else(|| Error::Package {
            package: package.clone(),
            what: "modules",
        })?;
        progress(&format!("fetching {modules}"));
        package::unpack(&modules, work, &tree)?;
    }
    progress("unpacking the kernel");
    let finished = work.join("finished");
    assemble(&package, &tree, &finished)?;
    publish(kernels, &finished, &stem)
}

/// Picks what is needed from the unpacked packages.
fn assemble(package: &str, tree: &Path, finished: &Path) -> Result<()> {
    let lacks = |what| Error::Package {
        package: package.to_owned(),
        what,
    };
    let image_path = first_entry(&tree.join("boot"), "vmlinuz-").ok_or_else(|| lacks("kernel"))?;
    let modules = modules_in(tree).ok_or_else(|| lacks("modules"))?;
    let image = fs::read(&image_path).map_err(file("read", &image_path))?;
    let vmlinux = unpack(&image_path, &image)?;
    let release = bzimage::release(&image).ok_or_else(|| lacks("kernel release"))?;
    fs::create_dir_all(finished).map_err(file("make the directory", finished))?;
    Cache::write(&finished.join("vmlinux"), &vmlinux)?;
    Cache::write(&finished.join("release"), release.as_bytes())?;
    fs::rename(&modules, finished.join("modules")).map_err(file("move", modules))
}

/// Gives the finished directory its name, then moves the link.
fn publish(kernels: &Path, finished: &Path, name: &str) -> Result<()> {
    let target = kernels.join(name);
    // One that the link never led to, or that someone damaged.
    let _ = fs::remove_dir_all(&target);
    fs::rename(finished, &target).map_err(file("make", &target))?;
    let link = kernels.join("distribution");
    let temporary = kernels.join(temporary_name());
    symlink(name, &temporary)
        .and_then(|()| fs::rename(&temporary, &link))
        .map_err(file("make the link", &link))
}

fn modules_in(tree: &Path) -> Option<PathBuf> {
    ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|path| first_entry(&tree.join(path), ""))
}

/// The package of the current kernel.
fn find_package() -> Result<String> {
    for name in PACKAGES {
        if let Some(package) = dependency(name, "linux-image-")? {
            return Ok(package);
        }
    }
    Err(Error::NoPackage {
        tried: PACKAGES.join(", "),
    })
}

/// The first package with this prefix that `package` depends on, if apt knows `package`.
fn dependency(package: &str, prefix: &str) -> Result<Option<String>> {
    let output = package::command(
        "apt-cache",
        &["depends", "--important", package],
        Path::new("."),
    );
    match output {
        Ok(text) => Ok(parse_dependency(&text, prefix)),
        // apt-cache fails for a package that it does not know.
        Err(Error::Command { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds `  Depends: PREFIX...` in what `apt-cache depends` prints.
fn parse_dependency(text: &str, prefix: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| {
            line.trim()
                .trim_start_matches('|')
                .strip_prefix("Depends: ")
        })
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}
