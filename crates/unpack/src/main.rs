//! The process that unpacks one layer.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    device::run::<unpack::Process>()
}
