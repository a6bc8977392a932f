//! What a machine cost, in time and memory.

use std::time::Duration;

use crumble::{Error, Machine, Timings};

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
    let mut sum = 0u64;
    for process in machine.processes() {
        let private = process.private_bytes.unwrap_or_default();
        sum = sum.saturating_add(private);
        let name = process.name;
        eprintln!(
            "{name:>12} {:8} KiB private  pid {}",
            private >> 10,
            process.pid
        );
    }
    eprintln!("{:>12} {:8} KiB private", "in all", sum >> 10);
    for (reason, count) in machine.stats()?.exits {
        eprintln!("{count:>12} exits  {reason}");
    }
    Ok(())
}
