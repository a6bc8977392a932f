//! Measurements, side by side.
//!
//! They are taken where machines run: in the testbed this program runs itself again inside the
//! box, so that neither the way there nor the box's boot is in a number.

mod boot;
mod cost;
mod files;
mod machines;
pub(crate) mod network;
mod rival;
mod series;
mod traffic;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use kernel::{Cache, Kernel, Source};
use testbed::{BIN_DIR, IN_THE_BOX};

use crate::{
    error::{Error, Result},
    run::Place,
    setup,
};

/// A table of docs/benchmarks.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Table {
    /// Boot to power-off, beside QEMU's microvm.
    Boot,
    /// Exits to the VMM during traffic.
    Traffic,
    /// Private memory of the processes of a machine, and the sizes of the binaries.
    Cost,
    /// The network, beside QEMU's. Needs root: it makes TAP devices.
    Network,
    /// Files of a share, beside QEMU's with virtiofsd. Needs root: it mounts a file system.
    Files,
    /// What one machine more of the same image costs.
    Machines,
}

const ALL: [Table; 6] = [
    Table::Boot,
    Table::Traffic,
    Table::Cost,
    Table::Network,
    Table::Files,
    Table::Machines,
];

/// A kernel to measure with, and what it is called in the tables.
#[derive(Debug)]
pub(crate) struct Guest {
    name: &'static str,
    kernel: Kernel,
    /// For `crumble run --kernel`; none for the default.
    path: Option<PathBuf>,
}

/// What to measure, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// Only these tables.
    #[arg(value_enum)]
    tables: Vec<Table>,
    /// Boots of each kind, and rounds of the network's measurements.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// How often a byte goes to the guest and back.
    #[arg(long, default_value_t = 100_000)]
    round_trips: u32,
}

/// Measures, here or in the testbed.
pub(crate) fn bench(mut plan: Plan) -> Result {
    if plan.tables.is_empty() {
        plan.tables = ALL.to_vec();
    }
    if plan.runs == 0 {
        return Err(Error::Other("there is nothing to measure in 0 runs".into()));
    }
    if env::var_os(IN_THE_BOX).is_some() {
        let bin_dir = env::var_os(BIN_DIR).map(PathBuf::from).unwrap_or_default();
        return measure(&plan, &bin_dir);
    }
    // Its rival is installed for the testbed; a host with a KVM of its own needs it here.
    setup::for_machines(true)?;
    if plan.tables.contains(&Table::Network) {
        setup::for_programs(&network::PROGRAMS)?;
    }
    if plan.tables.contains(&Table::Files) {
        setup::for_programs(&files::PROGRAMS)?;
    }
    let place = Place::ready()?;
    if place.testbed.is_none() {
        return measure(&plan, &place.bin_dir);
    }
    let program = env::current_exe().map_err(crate::error::file("find", "this program"))?;
    let mut argv: Vec<OsString> = vec![program.into(), "bench".into()];
    argv.push(format!("--runs={}", plan.runs).into());
    argv.push(format!("--round-trips={}", plan.round_trips).into());
    argv.extend(plan.tables.iter().map(|table| table.name().into()));
    place.run(argv)
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Traffic => "traffic",
            Self::Cost => "cost",
            Self::Network => "network",
            Self::Files => "files",
            Self::Machines => "machines",
        }
    }
}

fn measure(plan: &Plan, bin_dir: &Path) -> Result {
    let guests = guests()?;
    for table in &plan.tables {
        match table {
            Table::Boot => boot::print(&guests, plan.runs, bin_dir)?,
            Table::Traffic => traffic::print(bin_dir, plan.round_trips)?,
            Table::Cost => cost::print(&guests, bin_dir)?,
            Table::Network => network::print(plan.runs, bin_dir)?,
            Table::Files => files::print(plan.runs, bin_dir)?,
            Table::Machines => machines::print(bin_dir)?,
        }
    }
    Ok(0)
}

/// The distribution's kernel and, if it was built, the tuned one.
fn guests() -> Result<Vec<Guest>> {
    let cache = Cache::of_user().map_err(testbed::Error::from)?;
    let resolve = |source| kernel::resolve(&source, &cache, &mut |step| println!("{step}"));
    let stock = resolve(Source::Distribution).map_err(testbed::Error::from)?;
    let mut guests = vec![Guest {
        name: "distribution's",
        kernel: stock,
        path: None,
    }];
    match resolve(Source::Tuned) {
        Ok(tuned) => guests.push(Guest {
            name: "tuned",
            path: Some(tuned.vmlinux.clone()),
            kernel: tuned,
        }),
        Err(error) => println!("only one kernel is measured: {error}\n"),
    }
    Ok(guests)
}
