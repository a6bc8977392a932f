//! The guest's init.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::run()
}
