//! The memory balloon device's process.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    device::run::<dev_balloon::Process>()
}
