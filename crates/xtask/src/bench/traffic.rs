//! Exits to the VMM while data moves: they must not grow with it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use crumble::{Machine, Stats, Stdio};

use crate::error::{Error, Result, file};

/// What is read through virtio-fs.
const BYTES: u64 = 1 << 30;

/// Prints the table.
pub(crate) fn print(bin_dir: &Path, round_trips: u32) -> Result<()> {
    println!("Exits to the VMM during traffic\n");
    println!("| | time | exits to the VMM | by reason |\n|---|---|---|---|");
    let directory = std::env::temp_dir().join(format!("crumble-bench-{}", std::process::id()));
    fs::create_dir_all(&directory).map_err(file("make the directory", &directory))?;
    let result = print_rows(bin_dir, &directory, round_trips);
    let _ = fs::remove_dir_all(&directory);
    println!();
    result
}

fn print_rows(bin_dir: &Path, directory: &Path, round_trips: u32) -> Result<()> {
    let data = directory.join("data");
    // Without blocks: reading it costs the host nothing, and the box's memory holds it.
    let made = File::create(&data).and_then(|made| made.set_len(BYTES));
    made.map_err(file("make", &data))?;
    let share = format!("{}:/data:ro", directory.display());
    let machine = Machine::builder(parse("busybox")?)
        .share(parse(&share)?)
        .programs(bin_dir)
        .start()
        .map_err(failed)?;
    row(&machine, "idle for 1 s", || {
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    })?;
    for megabytes in [64, 1024] {
        let name = format!("{megabytes} MiB read over virtio-fs");
        row(&machine, &name, || read_file(&machine, megabytes))?;
    }
    for round_trips in [round_trips / 100, round_trips] {
        let name = format!("{round_trips} round trips over vsock");
        row(&machine, &name, || round_trip(&machine, round_trips))?;
    }
    machine.shutdown().map_err(failed)?;
    Ok(())
}

fn row(machine: &Machine, name: &str, traffic: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = machine.stats().map_err(failed)?;
    let begin = Instant::now();
    traffic()?;
    let took = begin.elapsed();
    let after = machine.stats().map_err(failed)?;
    let (total, reasons) = difference(&before, &after);
    println!("| {name} | {} ms | {total} | {reasons} |", took.as_millis());
    Ok(())
}

/// How many exits came between, in all and by reason.
pub(crate) fn difference(before: &Stats, after: &Stats) -> (u64, String) {
    let earlier = |reason: &String| before.exits.get(reason).copied().unwrap_or_default();
    let grown = after
        .exits
        .iter()
        .map(|(reason, count)| (reason, count.saturating_sub(earlier(reason))))
        .filter(|(_, count)| *count > 0);
    let (mut total, mut words) = (0u64, Vec::new());
    for (reason, count) in grown {
        total = total.saturating_add(count);
        words.push(format!("{reason} {count}"));
    }
    (total, words.join(", "))
}

/// Reads the start of the file with direct I/O, so that every byte crosses the device.
fn read_file(machine: &Machine, megabytes: u32) -> Result<()> {
    let status = machine
        .command("dd")
        .args(["if=/data/data", "of=/dev/null", "bs=1M", "iflag=direct"])
        .arg(format!("count={megabytes}"))
        .stderr(Stdio::Null)
        .status()
        .map_err(failed)?;
    match status.code() {
        Some(0) => Ok(()),
        _ => Err(measure(format!("dd ended with {status:?}"))),
    }
}

/// Sends a byte to a `cat` in the guest, and waits for it to come back, each time.
fn round_trip(machine: &Machine, number: u32) -> Result<()> {
    let mut child = machine
        .command("cat")
        .stdin(Stdio::Piped)
        .stdout(Stdio::Piped)
        .spawn()
        .map_err(failed)?;
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(measure("the command has no streams".to_owned()));
    };
    let mut byte = [0];
    for _ in 0..number {
        input
            .write_all(&[1])
            .and_then(|()| output.read_exact(&mut byte))
            .map_err(|error| measure(error.to_string()))?;
    }
    drop(input);
    child.wait().map_err(failed)?;
    Ok(())
}

/// A value of the library from what users write.
pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|error| measure(format!("`{text}`: {error}")))
}

/// An error of the library with its causes.
pub(crate) fn failed(error: crumble::Error) -> Error {
    measure(wire::chain(&error))
}

fn measure(why: String) -> Error {
    Error::Measure {
        what: "a machine".to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grew_is_shown() {
        let stats = |counts: &[(&str, u64)]| Stats {
            exits: counts.iter().map(|(r, n)| ((*r).to_owned(), *n)).collect(),
        };
        let before = stats(&[("io", 5), ("mmio", 7)]);
        let after = stats(&[("hlt", 2), ("io", 5), ("mmio", 8)]);
        assert_eq!(difference(&before, &after), (3, "hlt 2, mmio 1".to_owned()));
    }
}
