//! Tests and lints, stage by stage.

use std::{
    env,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use testbed::BIN_DIR;

use crate::{
    command::{cargo, exit_code},
    deps,
    error::Result,
    run::{self, Place},
    setup,
};

/// A stage of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// Unit and integration tests of every crate: no machine is booted.
    Crates,
    /// Micro-guests on this host's KVM.
    Quest,
    /// The network with real programs, in network namespaces: no machine is booted.
    Network,
    /// Our devices under QEMU, which emulates the CPU.
    Qemu,
    /// Linux guests end to end, here or in the testbed.
    Machines,
}

/// Runs the stages, all if none is named, and sums up. A failed stage does not keep the others from
/// running.
pub(crate) fn test(stages: &[Stage]) -> Result {
    let all = [
        Stage::Crates,
        Stage::Quest,
        Stage::Network,
        Stage::Qemu,
        Stage::Machines,
    ];
    let stages = if stages.is_empty() { &all } else { stages };
    let begin = Instant::now();
    // Everything is installed and built before anything is timed, and the testbed boots once: after
    // that, because packages replace files of the host that it has looked at, /etc/passwd for one.
    if stages.contains(&Stage::Crates) {
        setup::for_crate_tests()?;
    }
    if stages.contains(&Stage::Network) {
        setup::for_network()?;
    }
    if stages.contains(&Stage::Qemu) {
        setup::for_qemu()?;
    }
    if stages.contains(&Stage::Machines) {
        setup::for_machine_tests()?;
    }
    let place = Place::ready()?;
    let mut summary = Summary::default();
    summary.add("set-up and build", begin.elapsed(), 0);
    for stage in stages {
        println!("== {}", stage.name());
        summary.time(stage.name(), || stage.run(&place))?;
    }
    summary.print();
    Ok(summary.code())
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Crates => "crates",
            Self::Quest => "quest",
            Self::Network => "network",
            Self::Qemu => "qemu",
            Self::Machines => "machines",
        }
    }

    fn run(self, place: &Place) -> Result {
        match self {
            Self::Crates => exit_code(&mut cargo(&[
                "test",
                "--quiet",
                "--workspace",
                "--exclude",
                "tests",
                "--features",
                "jailer/test-layers",
                "--no-fail-fast",
            ])),
            // A host without any KVM has it in the testbed.
            Self::Quest => run::quest(place.testbed.is_some() && !has_kvm()),
            Self::Network => end_to_end("net", place),
            Self::Qemu => end_to_end("qemu", place),
            Self::Machines => end_to_end("e2e", place),
        }
    }
}

/// A binary of end-to-end tests, with the product that was built.
fn end_to_end(binary: &str, place: &Place) -> Result {
    exit_code(cargo(&["test", "--package", "tests", "--test", binary]).env(BIN_DIR, &place.bin_dir))
}

fn has_kvm() -> bool {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

/// Formatting, clippy, dependencies.
pub(crate) fn lint() -> Result {
    let mut summary = Summary::default();
    summary.time("format", || exit_code(&mut cargo(&["fmt", "--check"])))?;
    summary.time("format of fuzz", || {
        exit_code(&mut cargo(&[
            "fmt",
            "--check",
            "--manifest-path",
            "fuzz/Cargo.toml",
        ]))
    })?;
    summary.time("clippy", || {
        exit_code(&mut cargo(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]))
    })?;
    summary.time("deps", deps::check)?;
    summary.print();
    Ok(summary.code())
}

/// What ran, how long, and how it ended.
#[derive(Debug, Default)]
struct Summary(Vec<(String, Duration, u8)>);

impl Summary {
    fn time(&mut self, name: &str, stage: impl FnOnce() -> Result) -> Result<()> {
        let begin = Instant::now();
        let code = stage()?;
        self.add(name, begin.elapsed(), code);
        Ok(())
    }

    fn add(&mut self, name: &str, time: Duration, code: u8) {
        self.0.push((name.to_owned(), time, code));
    }

    fn print(&self) {
        println!();
        for (name, time, code) in &self.0 {
            let verdict = if *code == 0 { "ok" } else { "FAILED" };
            println!("{name:<18} {:>7.1} s  {verdict}", time.as_secs_f32());
        }
        let total: Duration = self.0.iter().map(|(_, time, _)| *time).sum();
        println!("{:<18} {:>7.1} s", "total", total.as_secs_f32());
        let in_ci = env::var_os("CI").is_some();
        if self.code() != 0 && !in_ci {
            println!("what failed is above; `cargo xtask test STAGE` runs one stage");
        }
    }

    fn code(&self) -> u8 {
        u8::from(self.0.iter().any(|(_, _, code)| *code != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_stage_fails_them_all() {
        let mut summary = Summary::default();
        summary.time("a", || Ok(0)).unwrap();
        assert_eq!(summary.code(), 0);
        summary.time("b", || Ok(101)).unwrap();
        summary.time("c", || Ok(0)).unwrap();
        assert_eq!(summary.code(), 1);
    }
}
