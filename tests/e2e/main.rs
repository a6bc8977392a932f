//! Linux guests end to end, through the `crumble` command and the library.
//!
//! Each test is a function that panics if it fails. They run where a stock kernel's KVM is: here,
//! or in boxes of the testbed, each of which runs one test at a time.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bad_input;
mod builds;
mod console;
mod detached;
mod disks;
mod ends;
mod exit_codes;
mod files;
mod images;
mod inspect;
mod interop;
mod layout;
mod library;
mod limit;
mod memory;
mod network;
mod ports;
mod shares;
mod streams;
mod support;
mod torture;
mod users;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};
use testbed::{Here, Pool};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(here)).exit_code();
    }
    match testbed::here_or_boxes() {
        Ok(Here::Stay(programs)) => {
            support::set_programs(programs);
            libtest_mimic::run(&arguments, trials(here)).exit_code()
        }
        Ok(Here::Boxes(pool)) => {
            arguments.test_threads = Some(pool.size());
            let pool = Arc::new(pool);
            let times = Arc::new(Times::default());
            let trials = trials(|name, _| {
                let (pool, times) = (Arc::clone(&pool), Arc::clone(&times));
                Box::new(move || times.measure(&name, || in_a_box(&pool, &name)))
            });
            let conclusion = libtest_mimic::run(&arguments, trials);
            times.print();
            conclusion.exit_code()
        }
        Err(error) => panic!("the tests have nowhere to run: {error}"),
    }
}

/// How long tests took.
#[derive(Default)]
struct Times(Mutex<Vec<(Duration, String)>>);

impl Times {
    fn measure<T>(&self, name: &str, test: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = test();
        let mut times = self.0.lock().unwrap();
        times.push((began.elapsed(), name.to_owned()));
        result
    }

    /// Says where most of the time went.
    fn print(&self) {
        let mut times = self.0.lock().unwrap();
        times.sort_unstable_by(|one, other| other.cmp(one));
        for (time, name) in times.iter().take(10) {
            let _ = writeln!(io::stdout(), "{:>7.1} s  {name}", time.as_secs_f32());
        }
    }
}

/// What a test does.
type Body = Box<dyn FnOnce() -> Result<(), Failed> + Send>;

/// A test in this process.
fn here(name: String, test: fn()) -> Body {
    Box::new(move || {
        limit::within(&name, test);
        Ok(())
    })
}

/// A test by this very program, in a box of its own for as long as it takes.
fn in_a_box(pool: &Pool, name: &str) -> Result<(), Failed> {
    let program = env::current_exe()?;
    let output = pool.run([program.as_os_str(), "--exact".as_ref(), name.as_ref()]);
    let output = output.map_err(|error| wire::chain(&error))?;
    if output.code == 0 {
        return Ok(());
    }
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    // At once: who stops the run half-way has seen why.
    let _ = write!(io::stderr(), "{name} failed:\n{stdout}{stderr}");
    Err(format!("exit code {}", output.code).into())
}

fn trials(body: impl Fn(String, fn()) -> Body) -> Vec<Trial> {
    let groups = [
        ("bad_input", bad_input::TESTS),
        ("builds", builds::TESTS),
        ("console", console::TESTS),
        ("detached", detached::TESTS),
        ("disks", disks::TESTS),
        ("ends", ends::TESTS),
        ("exit_codes", exit_codes::TESTS),
        ("files", files::TESTS),
        ("images", images::TESTS),
        ("inspect", inspect::TESTS),
        ("interop", interop::TESTS),
        ("library", library::TESTS),
        ("memory", memory::TESTS),
        ("network", network::TESTS),
        ("ports", ports::TESTS),
        ("shares", shares::TESTS),
        ("streams", streams::TESTS),
        ("torture", torture::TESTS),
        ("users", users::TESTS),
    ];
    let tests = groups.into_iter().flat_map(|(group, tests)| {
        let name = move |name| format!("{group}::{name}");
        tests.iter().map(move |(own, test)| (name(own), *test))
    });
    tests
        .map(|(name, test)| {
            let body = body(name.clone(), test);
            Trial::test(name, body)
        })
        .collect()
}
