//! Linux guests end to end, through the `crumble` command and the library.
//!
//! Each test is a function that panics if it fails. They run where a stock kernel's KVM is: here,
//! or in the testbed.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bad_input;
mod ends;
mod exit_codes;
mod library;
mod shares;
mod streams;
mod support;
mod users;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use testbed::Here;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials()).exit_code();
    }
    match testbed::here_or_in_the_box() {
        Ok(Here::Stay(programs)) => {
            support::set_programs(programs);
            // Two machines at a time are too much for TCG's virtualization: its CPUs get stuck.
            arguments.test_threads.get_or_insert(1);
            libtest_mimic::run(&arguments, trials()).exit_code()
        }
        Ok(Here::Ran(code)) => code,
        Err(error) => panic!("the tests have nowhere to run: {error}"),
    }
}

fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for (group, tests) in [
        ("bad_input", bad_input::TESTS),
        ("ends", ends::TESTS),
        ("exit_codes", exit_codes::TESTS),
        ("library", library::TESTS),
        ("shares", shares::TESTS),
        ("streams", streams::TESTS),
        ("users", users::TESTS),
    ] {
        for (name, test) in tests {
            let name = format!("{group}::{name}");
            all.push(Trial::test(name.clone(), move || {
                // In a box that died before this one.
                if !support::passed_before(&name) {
                    test();
                    support::note_passed(&name);
                }
                Ok(())
            }));
        }
    }
    all
}
