//! The developers' entry: `cargo xtask`.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

mod bench;
mod command;
mod deps;
mod error;
mod fuzz;
mod house;
mod jail;
mod kernel;
mod licences;
mod metadata;
mod run;
mod runtest;
mod setup;
mod stages;
mod table;
mod testbed;

use std::{error::Error as _, ffi::OsString, net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand};

/// Builds, runs, tests and measures CrumbleCracker.
///
/// Whatever a command needs and does not find it installs, saying so: packages through apt-get (as
/// root, or with sudo), the Rust target through rustup. Where this host's KVM cannot run Linux,
/// machines run in the testbed: QEMU/TCG with a stock kernel and a real KVM.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the product, then `crumble run` with these arguments.
    ///
    /// Try `cargo xtask run host -- uname -a`.
    Run {
        /// What `crumble run` takes; `cargo xtask run --help` after `--` shows it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<OsString>,
    },
    /// Run any other `crumble` command, such as `cargo xtask crumble doctor`.
    Crumble {
        /// The command line.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Build an image of tests/images and run it: its exit code is the verdict.
    ///
    /// What it is built from is made of the distribution's packages, once.
    Runtest {
        /// Which one; they are listed if there is none.
        name: Option<String>,
        /// For the image's command.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// All tests, or some stages of them, with a summary.
    Test {
        /// Only these stages.
        #[arg(value_enum)]
        stages: Vec<stages::Stage>,
    },
    /// Build the static product binaries, in release mode.
    Build,
    /// Run the conformance suite of micro-guests on this host's KVM, emulated or not.
    Quest {
        /// Run it in the testbed instead.
        #[arg(long)]
        testbed: bool,
    },
    /// The box with a real KVM: for people. Commands find it by themselves.
    Testbed {
        #[command(subcommand)]
        action: testbed::Action,
    },
    /// Measure side by side, and print the tables of docs/benchmarks.md.
    Bench(bench::Plan),
    /// A guest's part in `bench network`.
    #[command(hide = true)]
    Peer {
        /// What sends bytes back.
        server: SocketAddr,
        /// How long to send them.
        seconds: u64,
    },
    /// Build the tuned guest kernel from the distribution's source, into the cache.
    Kernel {
        /// Compile with this many processes; all CPUs by default.
        #[arg(long, short)]
        jobs: Option<usize>,
    },
    /// Compare the crates' dependencies with the table of the design; check licences.
    Deps,
    /// The components' policies, and whether they allow what is needed and nothing else.
    Jail {
        #[command(subcommand)]
        action: jail::Action,
    },
    /// Feed what the other side may send, made up by libFuzzer, to what parses it.
    Fuzz(fuzz::Plan),
    /// Print how the code stands to the house's aims.
    House,
    /// Formatting, clippy without warnings, and `deps`.
    Lint,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Run { arguments } => run::crumble(["run".into()].into_iter().chain(arguments)),
        Task::Crumble { arguments } => run::crumble(arguments),
        Task::Runtest { name, arguments } => runtest::run(name.as_deref(), arguments),
        Task::Test { stages } => stages::test(&stages),
        Task::Build => run::build(),
        Task::Quest { testbed } => run::quest(testbed),
        Task::Testbed { action } => testbed::act(action),
        Task::Bench(plan) => bench::bench(plan),
        Task::Peer { server, seconds } => bench::network::peer::print_round_trip(server, seconds),
        Task::Kernel { jobs } => kernel::build(jobs),
        Task::Deps => deps::check(),
        Task::Jail { action } => jail::act(action),
        Task::Fuzz(plan) => fuzz::fuzz(&plan),
        Task::House => house::print(),
        Task::Lint => stages::lint(),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
