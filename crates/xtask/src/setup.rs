//! What must be installed before anything can be built or run.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use testbed::TARGET;

use crate::{
    command::{output, program, succeed},
    error::{Error, Result},
};

/// The package that has a static busybox, for machines with the image `busybox`.
const BUSYBOX: &str = "busybox-static";

/// What is needed to build.
pub(crate) fn for_building() -> Result<()> {
    let sysroot = output(&mut program("rustc", &["--print", "sysroot"]))?;
    let target = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET);
    if target.is_dir() {
        return Ok(());
    }
    println!("setup: adding the Rust target {TARGET}");
    succeed(&mut program("rustup", &["target", "add", TARGET]))
}

/// What is needed to run machines, here or (with a reason why not here) in the testbed.
pub(crate) fn for_machines(testbed: bool) -> Result<()> {
    let mut packages = Vec::new();
    if testbed {
        packages.extend(testbed::missing().into_iter().map(|tool| tool.package));
    }
    if !in_path("busybox") {
        packages.push(BUSYBOX);
    }
    install(&packages)?;
    // The guest's kernel is fetched without root, from the lists that root has fetched.
    let lists = output(&mut program("apt-cache", &["pkgnames", "linux-image-"]));
    match lists {
        Ok(names) if names.trim().is_empty() && !kernel_is_cached() => update(),
        _ => Ok(()),
    }
}

/// What is needed to test crates beside cargo. A test that misses one of these says so and goes on, so
/// nobody has to become root for it.
pub(crate) fn for_crate_tests() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for_programs(tests::JUDGES)
}

/// What is needed to test the network with real programs. Those tests take root.
pub(crate) fn for_network() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for_programs(tests::NETWORK_PROGRAMS)
}

/// What is needed to test our devices under QEMU.
pub(crate) fn for_qemu() -> Result<()> {
    for_programs(tests::QEMU_PROGRAMS)
}

/// What is needed to test machines, besides what runs them.
pub(crate) fn for_machine_tests() -> Result<()> {
    for_programs(tests::MACHINE_PROGRAMS)
}

/// Programs, each with the package that has it.
pub(crate) fn for_programs(programs: &[(&str, &str)]) -> Result<()> {
    let missing = programs.iter().filter(|(program, _)| !in_path(program));
    let packages: Vec<_> = missing.map(|(_, package)| *package).collect();
    install(&packages)
}

/// What is needed to build the fuzz targets: libFuzzer is written in C++.
pub(crate) fn for_fuzzing() -> Result<()> {
    install(if in_path("c++") { &[] } else { &["g++"] })
}

/// Installs packages, if there are any to install.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let mut packages = packages.to_vec();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    if !in_path("apt-get") {
        return Err(Error::NoApt { packages: names });
    }
    println!("setup: installing {names}");
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(packages);
    if as_root(&arguments, &names).is_ok() {
        return Ok(());
    }
    // The lists may be absent, or older than the mirror's packages.
    update()?;
    as_root(&arguments, &names)
}

fn update() -> Result<()> {
    println!("setup: fetching the lists of packages");
    as_root(&["update", "--quiet"], "the lists of packages")
}

/// Runs apt-get as root.
fn as_root(arguments: &[&str], packages: &str) -> Result<()> {
    let mut command = if rustix::process::geteuid().is_root() {
        program("apt-get", arguments)
    } else if in_path("sudo") {
        let mut sudo = program("sudo", &["apt-get"]);
        sudo.args(arguments);
        sudo
    } else {
        return Err(Error::NoRoot {
            packages: packages.to_owned(),
        });
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    succeed(command.stdout(std::io::stderr()))
}

/// Whether there is a guest's kernel already.
fn kernel_is_cached() -> bool {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(Into::into)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    base.is_some_and(|base| {
        fs::exists(base.join("crumblecracker/kernels/distribution")).unwrap_or(false)
    })
}

fn in_path(program: &str) -> bool {
    find(program).is_some()
}

/// Looks a program up as a shell does.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
