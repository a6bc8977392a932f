//! `crumble run`.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
    os::unix::ffi::OsStrExt,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use crumble::{Builder, Command, Machine, Size, Stdio};
use indicatif::ProgressBar;

use crate::{
    arguments::{How, Task},
    attend::{Attended, Teller, attend},
    bars::Bars,
    console, machines, measure,
    report::{Failure, YELLOW, paint, signal_code, signal_name},
    terminal,
};

/// A command, or a machine without one, that ran to its end.
struct Ran {
    machine: Arc<Machine>,
    code: u8,
    took: Duration,
}

/// Runs a command in a new machine and returns the code to exit with.
///
/// The machine is started, and its command waited for, on a thread beside this one, so that
/// signals and the time limit are heeded at any moment. Whenever this returns the process ends,
/// and the kernel ends with it what is left of the machine.
pub(crate) fn run(task: Task) -> Result<ExitCode, Failure> {
    if task.life.detach {
        return machines::detach(&task);
    }
    let began = Instant::now();
    let deadline = task.life.timeout.and_then(|limit| began.checked_add(limit));
    let size = size(&task.life.how)?;
    let worker = {
        let task = task.clone();
        move |tell: &Teller<Ran>| work(&task, size, tell)
    };
    match attend(deadline, task.life.how.tty, worker)? {
        Attended::Signalled(signal) => {
            eprintln!("crumble: ended by {}", signal_name(signal));
            Ok(ExitCode::from(signal_code(signal)))
        }
        Attended::TimedOut => {
            let limit = task.life.timeout.unwrap_or_default();
            Err(Failure::Timeout(humantime::format_duration(limit)))
        }
        Attended::Done(ran) => {
            let teardown = finish(&task, &ran)?;
            if task.life.timings {
                measure::timings(&ran.machine, ran.took, teardown);
            }
            Ok(ExitCode::from(ran.code))
        }
    }
}

/// The terminal's size, for a command that is to have one.
pub(crate) fn size(how: &How) -> Result<Option<Size>, Failure> {
    let size = how.tty.then(|| terminal::size().ok_or(Failure::NoTerminal));
    size.transpose()
}

/// Starts the machine and its command, and waits for the command.
fn work(task: &Task, size: Option<Size>, tell: &Teller<Ran>) -> Result<Ran, Failure> {
    let mut builder = builder(task);
    if task.life.console {
        builder = builder.console(io::stderr());
    }
    let machine = Arc::new(start(builder)?);
    let began = Instant::now();
    let code = if task.runs_by_itself() {
        console::work(&machine, &task.life.how, size, tell)?
    } else {
        let mut child = command(task, size, &machine).spawn()?;
        tell.running(child.remote()?);
        child.wait()?.exit_code()
    };
    Ok(Ran {
        machine,
        code,
        took: began.elapsed(),
    })
}

/// The machine that is described.
pub(crate) fn builder(task: &Task) -> Builder {
    let mut builder = Machine::described(task.spec.clone()).pull(task.life.pull.pull());
    if task.life.console {
        builder = builder.verbose();
    }
    match &task.life.pcap {
        Some(file) => builder.pcap(file),
        None => builder,
    }
}

/// Starts a machine, showing how that goes.
pub(crate) fn start(builder: Builder) -> Result<Machine, crumble::Error> {
    let spinner = ProgressBar::new_spinner();
    let progress = {
        let spinner = spinner.clone();
        move |text: &str| progress(&spinner, text)
    };
    let machine = builder.fetching(Bars::new()).progress(progress).start();
    spinner.finish_and_clear();
    let machine = machine?;
    tell(&machine);
    Ok(machine)
}

/// Says what the caller could not know.
fn tell(machine: &Machine) {
    for warning in machine.warnings() {
        eprintln!("{} {warning}", paint("crumble:", YELLOW));
    }
    for port in machine.published().iter().filter(|port| port.picked) {
        eprintln!("crumble: {port}");
    }
}

/// A moving line on a terminal, plain lines elsewhere.
fn progress(spinner: &ProgressBar, text: &str) {
    if io::stderr().is_terminal() {
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner.set_message(text.to_owned());
    } else {
        eprintln!("crumble: {text}");
    }
}

/// What is run in it.
pub(crate) fn command<'m>(task: &Task, size: Option<Size>, machine: &'m Machine) -> Command<'m> {
    let mut command = match &task.life.entrypoint {
        Some(program) => {
            let mut command = machine.command(program);
            command.args(&task.command);
            command
        }
        None => machine.main(&task.command),
    };
    apply(&task.life.how, size, &mut command);
    command
}

/// Tells a command how it is to run, with nothing for its standard input unless it is to have some.
pub(crate) fn apply(how: &How, size: Option<Size>, command: &mut Command<'_>) {
    for variable in &how.env {
        if let Some((key, value)) = variable_of(variable) {
            command.env(key, value);
        }
    }
    if let Some(directory) = &how.workdir {
        command.current_dir(directory);
    }
    if let Some(user) = &how.user {
        command.user(user);
    }
    if let Some(size) = size {
        command.terminal(size.rows, size.columns);
        if let Some(term) = env::var_os("TERM") {
            command.env("TERM", term);
        }
    } else if !how.interactive {
        // As podman and docker: what reads the caller's input says so.
        command.stdin(Stdio::Null);
    }
}

/// `K=V`, or the caller's own value of `K`, if it has one.
pub(crate) fn variable_of(text: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let (key, value) = bytes.split_at(at);
            let value = value.get(1..).unwrap_or_default();
            Some((
                OsStr::from_bytes(key).into(),
                OsStr::from_bytes(value).into(),
            ))
        }
        None => env::var_os(text).map(|value| (text.to_owned(), value)),
    }
}

/// Ends the machine in good order, and tells how long that took.
fn finish(task: &Task, ran: &Ran) -> Result<Duration, Failure> {
    if task.life.stats && ran.machine.try_wait()?.is_none() {
        measure::stats(&ran.machine)?;
    }
    let began = Instant::now();
    if ran.machine.try_wait()?.is_none() {
        ran.machine.shutdown()?;
    }
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Verb};

    fn parse(line: &str) -> Result<Task, clap::Error> {
        let words = ["crumble", "run"]
            .into_iter()
            .chain(line.split_whitespace());
        match Arguments::try_parse_from(words)?.verb {
            Verb::Run(run) => Ok(Task::from(*run)),
            _ => panic!("not a run"),
        }
    }

    #[test]
    fn what_follows_the_image_is_the_command_s() {
        for line in ["host -- ls -l --all", "host ls -l --all"] {
            assert_eq!(parse(line).unwrap().command, ["ls", "-l", "--all"]);
        }
        let run = parse("-it --cpus 2 -m 1G -v /a:/b:ro busybox").unwrap();
        assert!(run.life.how.interactive && run.life.how.tty && run.command.is_empty());
        assert_eq!((run.spec.cpus.get(), run.spec.memory.bytes()), (2, 1 << 30));
    }

    #[test]
    fn a_network_is_there_unless_there_is_to_be_none() {
        assert_eq!(
            parse("host").unwrap().spec.network,
            crumble::Network::default()
        );
        let run = parse("--network none host").unwrap();
        assert_eq!(run.spec.network, crumble::Network::None);
        let run = parse("-p 8080:80 --publish 0:53/udp host").unwrap();
        assert_eq!(run.spec.publish.len(), 2);
        assert!(run.spec.publish[1].udp && run.spec.publish[1].host == 0);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (line, word) in [
            ("--cpus 0 host", "CPUs"),
            ("--memory 1 host", "memory"),
            ("-v /a host", "guest directory"),
            ("--timeout soon host", "soon"),
            ("--network bridge host", "no network \"bridge\""),
            ("--network user,deny=10.0.0.1/8 host", "10.0.0.0/8"),
            ("-p 80:80/sctp host", "no protocol \"sctp\""),
            ("-p 99999:80 host", "not a port"),
            ("Alpine", "busybox"),
            ("--frobnicate host", "frobnicate"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(word), "{line}: {message}");
        }
    }

    #[test]
    fn a_variable_without_a_value_is_the_caller_s() {
        assert_eq!(
            variable_of("A=b=c".as_ref()),
            Some(("A".into(), "b=c".into()))
        );
        assert_eq!(variable_of("A=".as_ref()), Some(("A".into(), "".into())));
        let path = env::var_os("PATH").unwrap();
        assert_eq!(variable_of("PATH".as_ref()), Some(("PATH".into(), path)));
        assert_eq!(variable_of("NO_SUCH_VARIABLE".as_ref()), None);
    }
}
