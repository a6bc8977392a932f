//! What a machine cost, in time and memory.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use crumble::{Error, Machine, Name, Timings};
use detached::{Handle, Stats};

use crate::report::{self, Failure, print};

/// Prints how long each phase took.
pub(crate) fn timings(machine: &Machine, command: Duration, teardown: Duration) {
    let Timings {
        spawned,
        loaded,
        entered,
        init,
        ready,
        ended: _,
    } = machine.timings();
    let between = |from: Option<Duration>, to: Option<Duration>| {
        from.zip(to).map(|(from, to)| to.saturating_sub(from))
    };
    let zero = Some(Duration::ZERO);
    let phases = [
        ("fetch", "find and open all parts", Some(machine.prepared())),
        ("spawn", "start the processes", spawned),
        ("load", "kernel into memory, beside spawn", loaded),
        (
            "enter",
            "from load to the first vCPU",
            between(loaded, entered),
        ),
        ("kernel", "guest kernel to init", between(entered, init)),
        ("agent", "init to the agent's answer", between(init, ready)),
        ("command", "", Some(command)),
        ("teardown", "sync and power off", Some(teardown)),
    ];
    for (name, what, took) in phases {
        match took {
            Some(took) => eprintln!("{name:>9} {:9.1} ms  {what}", milliseconds(took)),
            None => eprintln!("{name:>9} {:>9}     {what}", "?"),
        }
    }
    let up = machine
        .prepared()
        .saturating_add(ready.or(zero).unwrap_or_default());
    let all = up.saturating_add(command).saturating_add(teardown);
    eprintln!("{:>9} {:9.1} ms", "in all", milliseconds(all));
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Prints what the processes of a running machine cost, and the VMM's exits.
pub(crate) fn stats(machine: &Machine) -> Result<(), Error> {
    let stats = Stats {
        processes: machine.processes(),
        exits: machine.stats()?.exits,
    };
    eprint!("{}", table(&stats));
    Ok(())
}

/// `crumble stats`.
pub(crate) fn of_machine(name: &Name, json: bool) -> Result<ExitCode, Failure> {
    let stats = Handle::open(name)?.stats()?;
    let text = match json {
        true => report::json(&stats)?,
        false => table(&stats),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn table(stats: &Stats) -> String {
    let mut text = String::new();
    let mut sum = 0u64;
    // Writing to a string does not fail.
    for process in &stats.processes {
        let private = process.private_bytes.unwrap_or_default();
        sum = sum.saturating_add(private);
        let (name, pid) = (&process.name, process.pid);
        let _ = writeln!(
            text,
            "{name:>12} {:8} KiB private  pid {pid}",
            private >> 10
        );
    }
    let _ = writeln!(text, "{:>12} {:8} KiB private", "in all", sum >> 10);
    for (reason, count) in &stats.exits {
        let _ = writeln!(text, "{count:>12} exits  {reason}");
    }
    text
}
