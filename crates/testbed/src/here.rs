//! Here, or in a box?

use std::{env, io::Write, path::PathBuf};

use hv_kvm::Host;

use crate::{
    build::{PRODUCTS, build},
    client::Testbed,
    error::Result,
    place::BIN_DIR,
    pool::Pool,
};

/// The environment variable that is set in the box.
pub const IN_THE_BOX: &str = "CRUMBLE_IN_TESTBED";

/// Where a program that needs a KVM for stock kernels is to go on.
#[derive(Debug)]
pub enum Here {
    /// Here: the KVM is native, or this is the box. The product's binaries are in this directory.
    Stay(PathBuf),
    /// Not here: in these boxes.
    Boxes(Pool),
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
/// that this was done, and finds out where the tests can run.
///
/// # Errors
/// If the product does not build.
pub fn here_or_boxes() -> Result<Here> {
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
    let pool = Pool::new(bin_dir);
    say_where(&why, pool.size());
    Ok(Here::Boxes(pool))
}

/// Opens the testbed, and tells the user on stderr.
pub fn announce(why: &str, bin_dir: &std::path::Path) -> Result<Testbed> {
    say_where(why, 1);
    let testbed = Testbed::open(bin_dir)?;
    if let Some(time) = testbed.booted() {
        let _ = writeln!(
            std::io::stderr(),
            "testbed: up in {:.1} s",
            time.as_secs_f32()
        );
    }
    Ok(testbed)
}

fn say_where(why: &str, boxes: usize) {
    let boxes = match boxes {
        1 => "the testbed".to_owned(),
        more => format!("{more} testbeds"),
    };
    let _ = writeln!(
        std::io::stderr(),
        "{why}: running in {boxes} (QEMU/TCG with a stock kernel and a real KVM)"
    );
}
