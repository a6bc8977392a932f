//! The `crumble` command: commands in microVMs.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to people on their terminal"
)]

mod arguments;
mod bars;
mod build;
mod doctor;
mod images;
mod inspection;
mod measure;
mod network;
mod report;
mod run;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Verb};

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Run(run) => run::run(*run),
        Verb::Build(options) => build::build(&options),
        Verb::Commit { name, image } => images::commit(&name, &image),
        Verb::Rm { names } => images::forget(&names),
        Verb::Image(verb) => images::images(verb),
        Verb::Doctor => Ok(doctor::doctor()),
        Verb::Inspect(options) => inspection::inspect(&options),
        Verb::Network(verb) => network::network(&verb),
    };
    done.unwrap_or_else(|failure| failure.report())
}
