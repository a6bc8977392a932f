//! The `crumble` command: commands in microVMs.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to people on their terminal"
)]

mod arguments;
mod attach;
mod attend;
mod bars;
mod build;
mod console;
mod doctor;
mod images;
mod inspection;
mod keep;
mod logs;
mod machines;
mod measure;
mod network;
mod report;
mod run;
mod serve;
mod signals;
mod terminal;
mod validate;
mod volumes;

use std::{process::ExitCode, time::Duration};

use clap::Parser;

use arguments::{Arguments, Devices, Task, Verb};
use report::Failure;

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Run(run) => run::run(Task::from(*run)),
        Verb::Up(up) => Task::try_from(*up)
            .map_err(Failure::from)
            .and_then(run::run),
        Verb::Validate { schema, file } => validate::validate(schema, file.as_deref()),
        Verb::Create(run) => machines::create(&Task::from(*run)),
        Verb::Start { names } => machines::start(&names),
        Verb::Stop { time, names } => machines::stop(&names, Duration::from_secs(time)),
        Verb::Restart { time, names } => machines::restart(&names, Duration::from_secs(time)),
        Verb::Kill { signal, names } => machines::kill(&names, signal),
        Verb::Device(Devices::Restart { name, device }) => machines::restart_device(&name, &device),
        Verb::Pause { names } => machines::pause(&names, true),
        Verb::Unpause { names } => machines::pause(&names, false),
        Verb::Wait { names } => machines::wait(&names),
        Verb::Exec(options) => machines::exec(options),
        Verb::Attach { name } => attach::attach(&name),
        Verb::Logs(options) => logs::logs(&options),
        Verb::Ps(options) => machines::list(&options),
        Verb::Stats { name, json } => measure::of_machine(&name, json),
        Verb::Serve(options) => serve::serve(options),
        Verb::Keep { name } => keep::keep(&name),
        Verb::Build(options) => build::build(&options),
        Verb::Commit { name, image } => images::commit(&name, &image),
        Verb::Rm { force, names } => machines::remove(&names, force),
        Verb::Volume(verb) => volumes::volumes(&verb),
        Verb::Image(verb) => images::images(verb),
        Verb::Doctor => Ok(doctor::doctor()),
        Verb::Inspect(options) => inspection::inspect(&options),
        Verb::Network(verb) => network::network(&verb),
    };
    done.unwrap_or_else(|failure| failure.report())
}
