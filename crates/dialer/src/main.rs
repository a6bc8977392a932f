//! The dialer's process.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    device::run::<dialer::Process>()
}
