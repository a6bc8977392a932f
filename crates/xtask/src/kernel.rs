//! The tuned guest kernel, from the distribution's source.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use kernel::Cache;

use crate::{
    command::{output, program, succeed},
    error::{Error, Result, file},
    setup,
};

/// Source packages, the best first.
const SOURCES: &[&str] = &["linux-source-6.12", "linux-source-6.1"];

/// What the kernel's build needs.
const PACKAGES: &[&str] = &[
    "gcc",
    "make",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "xz-utils",
];

/// What the tuned kernel has.
const CONFIG: &str = "crates/kernel/tuned.config";

/// Builds it into the cache, and boots it once.
pub(crate) fn build(jobs: Option<usize>) -> Result {
    let missing = not_installed(PACKAGES);
    setup::install(&missing)?;
    let cache = Cache::of_user().map_err(testbed::Error::from)?;
    let result = cache.tuned();
    let work = cache.root().join("kernels/tuned-build");
    fs::create_dir_all(&work).map_err(file("make the directory", &work))?;
    let tree = source(&work)?;
    configure(&tree)?;
    compile(&tree, jobs)?;
    try_boot(&tree.join("vmlinux"))?;
    let directory = result.parent().unwrap_or(&result);
    fs::create_dir_all(directory).map_err(file("make the directory", directory))?;
    fs::copy(tree.join("vmlinux"), &result).map_err(file("write", &result))?;
    fs::remove_dir_all(&work).map_err(file("remove", &work))?;
    println!("{}", result.display());
    Ok(0)
}

fn not_installed(packages: &[&'static str]) -> Vec<&'static str> {
    let missing = |package: &&&str| {
        let status = program("dpkg-query", &["-W", "-f", "${Status}", package]).output();
        !status.is_ok_and(|status| status.stdout.ends_with(b" installed"))
    };
    packages.iter().filter(missing).copied().collect()
}

/// The unpacked source; what a build before this one unpacked is used again.
fn source(work: &Path) -> Result<PathBuf> {
    for package in SOURCES {
        let tree = work.join(package);
        if tree.join(".unpacked").is_file() {
            return Ok(tree);
        }
        if output(&mut program("apt-cache", &["show", package])).is_err() {
            continue;
        }
        println!("kernel: fetching {package}");
        let options = ["-q", "-o", "APT::Sandbox::User=root", "download", package];
        succeed(program("apt-get", &options).current_dir(work))?;
        println!("kernel: unpacking it");
        succeed(&mut shell(
            work,
            &format!(
                "dpkg-deb -x {package}_*.deb deb && tar -xf deb/usr/src/{package}.tar.xz && \
                 rm -rf deb {package}_*.deb && touch {package}/.unpacked"
            ),
        ))?;
        return Ok(tree);
    }
    Err(Error::Other(format!(
        "apt knows none of {}: run `apt-get update` as root",
        SOURCES.join(", ")
    )))
}

/// Configures the tree, and checks that every line of ours took.
fn configure(tree: &Path) -> Result<()> {
    let ours = testbed::workspace().join(CONFIG);
    let log = tree.join(".configured");
    let config = ours.display();
    succeed(&mut shell(
        tree,
        &format!(
            "KCONFIG_ALLCONFIG={config} make allnoconfig >{} 2>&1",
            log.display()
        ),
    ))?;
    let wanted = fs::read_to_string(&ours).map_err(file("read", &ours))?;
    let path = tree.join(".config");
    let found = fs::read_to_string(&path).map_err(file("read", &path))?;
    let lost = lost(&wanted, &found);
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::Other(format!(
        "these lines of {CONFIG} did not take: {}",
        lost.join(" ")
    )))
}

fn lost<'a>(wanted: &'a str, found: &str) -> Vec<&'a str> {
    wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && !found.lines().any(|other| other == *line))
        .collect()
}

fn compile(tree: &Path, jobs: Option<usize>) -> Result<()> {
    let jobs = jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    println!("kernel: compiling with {jobs} processes; about 10 CPU minutes");
    let log = tree.join(".compiled");
    let result = succeed(&mut shell(
        tree,
        &format!("make -j{jobs} vmlinux >{} 2>&1", log.display()),
    ));
    result.inspect_err(|_| println!("kernel: see {}", log.display()))
}

/// Boots it under emulation as far as it gets without an initramfs: until it has looked for a root.
/// Emulated there is no KVM clock, so the machine is one with the clocks of a PC.
fn try_boot(vmlinux: &Path) -> Result<()> {
    println!("kernel: booting it once under emulation");
    let script = "exec timeout 60 qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 256 \
        -nodefaults -display none -no-reboot -serial stdio -kernel \"$0\" \
        -append 'console=ttyS0 panic=-1 reboot=t'";
    let said = program("sh", &["-c", script]).arg(vmlinux).output();
    let said = said.map_err(|source| Error::Start {
        command: "qemu-system-x86_64".into(),
        source,
    })?;
    let text = String::from_utf8_lossy(&said.stdout);
    if text.contains("Linux version") && text.contains("Unable to mount root") {
        return Ok(());
    }
    Err(Error::Other(format!(
        "the kernel was built and does not boot; it said:\n{text}{}",
        String::from_utf8_lossy(&said.stderr)
    )))
}

fn shell(directory: &Path, script: &str) -> Command {
    let mut shell = program("sh", &["-ec", script]);
    shell.current_dir(directory);
    shell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_did_not_take_is_found() {
        let wanted = "# Words.\nCONFIG_A=y\nCONFIG_B=y\n";
        let found = "CONFIG_A=y\n# CONFIG_B is not set\n";
        assert_eq!(lost(wanted, found), ["CONFIG_B=y"]);
    }
}
