//! Here, or in the box?

use std::{env, io::Write, path::PathBuf, process::ExitCode};

use hv_kvm::Host;

use crate::{
    build::{PRODUCTS, build},
    client::{Testbed, directory_for},
    error::{Error, Result, system},
    exec::Command,
    place::{BIN_DIR, workspace},
};

/// The environment variable that is set in the box.
pub const IN_THE_BOX: &str = "CRUMBLE_IN_TESTBED";

/// So many boxes may be lost under one program. TCG's emulation of a CPU with virtualization is not
/// without faults: now and then the box's kernel, a stock one, finds its own stack overwritten, or
/// its CPUs stuck.
const BOXES_LOST: u32 = 5;

/// The environment variable with the path of a file that outlives the box. A program that keeps in
/// it what it has done goes on from there in the next box.
pub const PROGRESS: &str = "CRUMBLE_TESTBED_PROGRESS";

/// Where a program that needs a KVM for stock kernels is to go on.
#[derive(Debug)]
pub enum Here {
    /// Here: the KVM is native, or this is the box. The product's binaries are in this directory.
    Stay(PathBuf),
    /// It ran in the box, and this is its exit code.
    Ran(ExitCode),
}

/// Why machines cannot run on this host's KVM, in words; `None` if they can.
#[must_use]
pub fn why_not_here() -> Option<String> {
    match hv_kvm::probe() {
        Host::Native => None,
        // What the probe saw in detail is for `crumble doctor`.
        Host::Emulated { .. } => Some(
            "this host's KVM emulates the kernel mode of guests and cannot run Linux".to_owned(),
        ),
        Host::Absent { why } => Some(format!("this host has no usable KVM: {why}")),
        Host::Denied { why } => Some(format!("this user may not use the host's KVM: {why}")),
    }
}

/// For the `main` of tests that boot machines: builds the product unless `CRUMBLE_BIN_DIR` says
/// that this was done; then, if this host cannot run machines, runs this very program with the
/// same arguments in the testbed.
///
/// # Errors
/// If the product does not build, or the testbed does not come up.
pub fn here_or_in_the_box() -> Result<Here> {
    let bin_dir = match env::var_os(BIN_DIR) {
        Some(directory) => PathBuf::from(directory),
        None => build(PRODUCTS.iter().copied())?,
    };
    if env::var_os(IN_THE_BOX).is_some() {
        return Ok(Here::Stay(bin_dir));
    }
    let Some(why) = why_not_here() else {
        return Ok(Here::Stay(bin_dir));
    };
    let program = env::current_exe().map_err(system("find this program"))?;
    let words = [program.into_os_string()].into_iter();
    let mut command = Command::new(words.chain(env::args_os().skip(1)));
    command.env(BIN_DIR, &bin_dir);
    let progress = bin_dir.join(format!(".progress-{}", std::process::id()));
    command.env(PROGRESS, &progress);
    let mut lost = 0;
    loop {
        match announce(&why, &bin_dir).and_then(|testbed| command.run(&testbed)) {
            Err(Error::Agent(error)) if error.is_loss() && lost < BOXES_LOST => lost += 1,
            ran => {
                // It is there only if something was kept in it.
                let _ = std::fs::remove_file(&progress);
                return ran.map(|code| Here::Ran(ExitCode::from(code)));
            }
        }
        // The box's own kernel died, so what ran in it proves nothing either way.
        let _ = writeln!(
            std::io::stderr(),
            "testbed: the box died, see {}; starting over in a new one",
            directory_for(&workspace()).join("log").display()
        );
    }
}

/// Opens the testbed, and tells the user on stderr.
pub fn announce(why: &str, bin_dir: &std::path::Path) -> Result<Testbed> {
    let mut stderr = std::io::stderr();
    let _ = writeln!(
        stderr,
        "{why}: running in the testbed (QEMU/TCG with a stock kernel and a real KVM)"
    );
    let testbed = Testbed::open(bin_dir)?;
    if let Some(time) = testbed.booted() {
        let _ = writeln!(stderr, "testbed: up in {:.1} s", time.as_secs_f32());
    }
    Ok(testbed)
}
