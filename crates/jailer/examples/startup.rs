//! What the jail costs: starts this program as a component many times, and prints milliseconds.
//!
//! `cargo run --release -p jailer --example startup`

use std::error::Error;
use std::fs::File;
use std::io::{Write, stderr, stdout};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use handoff::Channel;
use jailer::Launch;

const TITLE: &str = "startup-component";
const ROUNDS: usize = 50;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().next().as_deref() {
        Some(TITLE) => return component(),
        _ if std::env::args().nth(1).as_deref() == Some("exit") => return Ok(()),
        _ => {}
    }
    let mut out = stdout().lock();
    let exec = median(|| {
        let begun = Instant::now();
        let program = std::env::current_exe()?;
        Command::new(program)
            .arg("exit")
            .stdin(Stdio::null())
            .status()?;
        Ok([begun.elapsed(); 3])
    })?;
    writeln!(out, "fork, exec and exit without a jail: {:.2} ms", exec[0])?;
    for policy in policy::all() {
        let [spawn, confine, ready] = median(|| start(policy))?;
        let name = policy.component;
        writeln!(
            out,
            "{name}: spawn {spawn:.2} ms, confine {confine:.2} ms, ready {ready:.2} ms"
        )?;
    }
    Ok(())
}

/// Starts one component: until its program runs, what it spent in `confine`, until it is ready.
fn start(policy: &'static policy::Policy) -> Result<[Duration; 3], Box<dyn Error>> {
    let (host, component) = Channel::pair()?;
    let program = File::open(std::env::current_exe()?)?;
    let begun = Instant::now();
    let _process = jailer::spawn(Launch {
        policy,
        program: program.as_fd(),
        title: TITLE,
        stderr: stderr().as_fd(),
        channel: component,
    })?;
    let spawned = begun.elapsed();
    handoff::start(&host, &policy.component.to_owned(), &[])?;
    handoff::await_ready(&host, Duration::from_secs(5))?;
    let ready = begun.elapsed();
    let (confined, _) = host.receive::<Duration>()?.ok_or("it ended")?;
    Ok([spawned, confined, ready])
}

/// The component: confines itself and tells how long that took.
fn component() -> Result<(), Box<dyn Error>> {
    let launched = handoff::launched::<String>()?;
    let policy = policy::component(&launched.config).ok_or("no such policy")?;
    let begun = Instant::now();
    let _confined = jailer::confine(policy, &[])?;
    let took = begun.elapsed();
    launched.ready()?.send(&took, &[])?;
    Ok(())
}

/// The median of each of three figures, in milliseconds.
fn median(
    mut measure: impl FnMut() -> Result<[Duration; 3], Box<dyn Error>>,
) -> Result<[f64; 3], Box<dyn Error>> {
    let rounds = (0..ROUNDS)
        .map(|_| measure())
        .collect::<Result<Vec<_>, _>>()?;
    Ok([0, 1, 2].map(|figure| {
        let mut figures: Vec<_> = rounds.iter().map(|round| round[figure]).collect();
        figures.sort();
        figures[ROUNDS / 2].as_secs_f64() * 1000.0
    }))
}
