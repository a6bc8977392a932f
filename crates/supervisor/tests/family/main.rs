//! Families of processes: that they are started as the plan says, and what happens when one of them
//! ends.
//!
//! This binary is every process of them. Started by cargo it is the supervisor, started by the jailer
//! it is what its title says: a component that takes what it is handed and does what shows that it
//! did.

mod components;
mod layer;
mod machine;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let title = std::env::args().next().unwrap_or_default();
    if let Some((component, _)) = title.split_once(": ") {
        return components::run(component);
    }
    let mut arguments = Arguments::from_args();
    // Each is a family of processes; this may be a small machine.
    arguments.test_threads.get_or_insert(2);
    let trial = |&(name, test): &(&'static str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let tests = machine::TESTS.iter().chain(layer::TESTS);
    libtest_mimic::run(&arguments, tests.map(trial).collect()).exit_code()
}
