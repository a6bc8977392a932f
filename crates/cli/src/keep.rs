//! `crumble keep`: the process of a machine that runs by itself.

use std::{
    env,
    fmt::Display,
    fs::{File, OpenOptions},
    io::{self, Write},
    iter,
    os::unix::fs::OpenOptionsExt,
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Parser;
use crumble::{Command, Machine, Name, Size, Stdio, image::Config};
use detached::{Directory, Handle, Work};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::{
    arguments::{Arguments, Task, Verb},
    report::{Failure, system},
    run, signals,
};

/// What is said on standard output when the machine runs.
pub(crate) const STARTED: &str = "started";

/// How long the command has when this process is asked to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The terminal of a command that has one, until somebody says otherwise.
const SIZE: Size = Size {
    rows: 24,
    columns: 80,
};

/// Keeps the machine until it has ended.
pub(crate) fn keep(name: &Name) -> Result<ExitCode, Failure> {
    // It fails if this process leads a session already.
    let _ = setsid();
    let directory = Directory::open(name)?;
    let description = directory.description()?;
    env::set_current_dir(&description.directory)
        .map_err(system("enter the machine's directory"))?;
    let mut task = described(description.arguments)?;
    stop_when_asked(&directory)?;
    let restart = task.life.restart;
    let ended = detached::keep(&directory, &mut task, restart, || let_go(&directory))?;
    if task.life.rm {
        directory.remove()?;
    }
    Ok(ExitCode::from(ended.code))
}

/// The command line that described the machine, as it was understood then.
fn described(arguments: Vec<String>) -> Result<Task, Failure> {
    let words = iter::once("crumble".to_owned()).chain(arguments);
    let wrong = |error: &dyn Display| Failure::Described(error.to_string());
    match Arguments::try_parse_from(words)
        .map_err(|error| wrong(&error))?
        .verb
    {
        Verb::Run(mut run) | Verb::Create(mut run) => {
            run.detach();
            Ok(Task::from(*run))
        }
        Verb::Up(mut up) => {
            up.detach();
            Ok(Task::try_from(*up)?)
        }
        _ => Err(wrong(&"it describes none")),
    }
}

fn stop_when_asked(directory: &Directory) -> Result<(), Failure> {
    let handle = Handle::from(directory.clone());
    signals::catch(move |signal| {
        if signals::ends(signal) {
            let handle = handle.clone();
            // It has its answer from this very process, or from the machine's end.
            thread::spawn(move || handle.stop(STOP_LIMIT));
        }
    })
    .map_err(system("catch signals"))
}

/// Tells who waits that the machine runs, and has nothing of that process any more.
fn let_go(directory: &Directory) {
    // Whoever waited may be gone, and a full disk takes no diagnostics: the machine runs anyway.
    let _ = writeln!(io::stdout(), "{STARTED}");
    let diagnostics = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(directory.diagnostics());
    let nothing = File::options().read(true).write(true).open("/dev/null");
    if let Ok(nothing) = nothing {
        let _ = dup2_stdin(&nothing);
        let _ = dup2_stdout(&nothing);
        let _ = dup2_stderr(diagnostics.as_ref().unwrap_or(&nothing));
    }
}

impl Work for Task {
    fn start(&mut self, console: Box<dyn Write + Send>) -> Result<Machine, crumble::Error> {
        run::start(run::builder(self).console(console))
    }

    fn command<'m>(&self, machine: &'m Machine) -> Option<Command<'m>> {
        if self.runs_by_itself() {
            return None;
        }
        let mut command = run::command(self, self.life.how.tty.then_some(SIZE), machine);
        if self.life.how.interactive {
            // It stays open.
            command.stdin(Stdio::Piped);
        }
        Some(command)
    }

    fn config(&self, machine: &Machine) -> Config {
        let mut config = machine.config().clone();
        let how = &self.life.how;
        let variables = how.env.iter().filter_map(|text| run::variable_of(text));
        for (key, value) in variables {
            let text = (key.into_string(), value.into_string());
            if let (Ok(key), Ok(value)) = text {
                config.env.push(format!("{key}={value}"));
            }
        }
        if let Some(user) = &how.user {
            config.user.clone_from(user);
        }
        if let Some(directory) = how.workdir.as_ref().and_then(|path| path.to_str()) {
            directory.clone_into(&mut config.working_dir);
        }
        config
    }
}
