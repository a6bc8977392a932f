//! What one machine more of the same image costs its host.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crumble::Machine;

use super::traffic::failed;
use crate::error::{Error, Result, file};

/// Machines that run at the same time, of each kind.
const MACHINES: u32 = 6;

/// The memory of each.
const MEMORY: &str = "128M";

/// Until what a guest does after its first command is done: Linux reports pages that have been free for two
/// seconds.
const SETTLED: Duration = Duration::from_secs(8);

const IMAGE: &str = "crumble.internal/bench/machines:1";

/// Makes an image of the busybox that is installed, starts machines of it, and prints a table for each kind.
pub(crate) fn print(bin_dir: &Path) -> Result<()> {
    build(bin_dir)?;
    println!("machines of {MEMORY} of one image, one after the other, all running");
    let mut machines = Vec::new();
    for reports in [false, true] {
        let kind = if reports { "with" } else { "without" };
        println!("\n{kind} --free-page-reporting\n");
        machines.extend(several(bin_dir, reports)?);
    }
    for machine in machines {
        machine.shutdown().map_err(failed)?;
    }
    Ok(())
}

/// Starts machines of one kind, with a line for each.
fn several(bin_dir: &Path, reports: bool) -> Result<Vec<Machine>> {
    println!(
        "| machine | started in ms | host memory KiB | its processes' KiB |\n|---|---|---|---|"
    );
    let mut machines = Vec::new();
    let begin = available()?;
    let mut before = begin;
    for number in 1..=MACHINES {
        let started = Instant::now();
        let machine = start(bin_dir, reports)?;
        let took = started.elapsed();
        std::thread::sleep(SETTLED);
        let now = available()?;
        let own = machine.processes().into_iter();
        let own: u64 = own.filter_map(|process| process.private_bytes).sum();
        let cost = before.saturating_sub(now);
        println!(
            "| {number} | {} | {cost} | {} |",
            took.as_millis(),
            own >> 10
        );
        before = now;
        machines.push(machine);
    }
    let each = begin.saturating_sub(before) / u64::from(MACHINES);
    println!("| each | | {each} | |");
    Ok(machines)
}

/// A machine that has run a command.
fn start(bin_dir: &Path, reports: bool) -> Result<Machine> {
    let image = IMAGE.parse().map_err(other)?;
    let mut builder = Machine::builder(image).programs(bin_dir);
    builder = builder.memory(MEMORY.parse().map_err(other)?);
    if reports {
        builder = builder.free_page_reporting();
    }
    let machine = builder.start().map_err(failed)?;
    let status = machine.command("true").status().map_err(failed)?;
    match status.success() {
        true => Ok(machine),
        false => Err(Error::Other(format!("`true` ended with {status}"))),
    }
}

fn build(bin_dir: &Path) -> Result<()> {
    let context = tempfile::tempdir().map_err(file("make", Path::new("a directory")))?;
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"ln\", \"-s\", \"busybox\", \"/bin/true\"]\n";
    let busybox = Path::new("/bin/busybox");
    let copied = context.path().join("busybox");
    fs::copy(busybox, &copied).map_err(file("copy", busybox))?;
    let path = context.path().join("Dockerfile");
    fs::write(&path, dockerfile).map_err(file("write", &path))?;
    let crumble = bin_dir.join("crumble");
    let mut command = Command::new(&crumble);
    command.args(["build", "--tag", IMAGE]).arg(context.path());
    let status = command.status().map_err(file("run", &crumble))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Other(format!("crumble build ended with {status}"))),
    }
}

/// Memory that the host has for others, in KiB (proc(5), `MemAvailable`).
fn available() -> Result<u64> {
    let path = Path::new("/proc/meminfo");
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Error::Other("/proc/meminfo has no MemAvailable".to_owned()))
}

fn other(error: impl std::fmt::Display) -> Error {
    Error::Other(error.to_string())
}
