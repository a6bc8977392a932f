//! The console device's process.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    device::run::<dev_console::Process>()
}
