//! `crumble-jailer`: any program in the jail, under a policy from a file.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to people"
)]

mod arguments;
mod error;
mod outer;

use std::env;
use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use error::Result;

/// The program did not start (as docker and podman have it).
const NOT_STARTED: u8 = 125;

fn main() -> ExitCode {
    let title = env::args().next().unwrap_or_default();
    let done: Result<u8> = match title.starts_with(foreign::TITLE) {
        true => Err(foreign::become_program().into()),
        false => outer::run(Arguments::parse()),
    };
    done.map_or_else(
        |error| {
            eprintln!("crumble-jailer: {}", wire::chain(&error));
            ExitCode::from(NOT_STARTED)
        },
        ExitCode::from,
    )
}
