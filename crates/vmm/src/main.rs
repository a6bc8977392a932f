//! `crumble-vmm`, started by a supervisor.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::run()
}
