//! Machines that run by themselves, by their names.

use std::{
    env,
    hash::{BuildHasher, Hasher, RandomState},
    io::{BufRead, BufReader},
    process::{self, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, SystemTime},
};

use crumble::Name;
use detached::{Description, Directory, Handle, State};
use nix::{
    sys::signal::{Signal, kill as send},
    unistd::Pid,
};
use serde::Serialize;

use crate::{
    arguments::{Exec, Ps, Task},
    attend::{Attended, Teller, attend},
    keep,
    report::{Failure, json, print, signal_code, signal_name, system},
    run, signals,
};

/// `crumble run --detach`.
pub(crate) fn detach(task: &Task) -> Result<ExitCode, Failure> {
    let directory = describe(task)?;
    let code = launch(&directory)?;
    match code {
        None => println!("{}", directory.name()),
        // It has never run, and its keeper has said why. Another may have come between.
        Some(_) => drop(directory.remove()),
    }
    Ok(code.unwrap_or(ExitCode::SUCCESS))
}

/// `crumble create`.
pub(crate) fn create(task: &Task) -> Result<ExitCode, Failure> {
    let directory = describe(task)?;
    println!("{}", directory.name());
    Ok(ExitCode::SUCCESS)
}

/// `crumble start`.
pub(crate) fn start(names: &[Name]) -> Result<ExitCode, Failure> {
    for name in names {
        if let Some(code) = launch(&Directory::open(name)?)? {
            return Ok(code);
        }
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Notes what this process was given.
fn describe(task: &Task) -> Result<Directory, Failure> {
    let life = &task.life;
    let watched = [
        ("--timeout", life.timeout.is_some()),
        ("--timings", life.timings),
        ("--stats", life.stats),
    ];
    if let Some((option, _)) = watched.iter().find(|(_, given)| *given) {
        return Err(Failure::Watched(option));
    }
    let words = env::args_os().skip(1);
    let words = words.map(|word| word.into_string().map_err(detached::Error::NotText));
    let description = Description {
        image: task.spec.image.to_string(),
        arguments: words.collect::<Result<_, _>>()?,
        directory: env::current_dir().map_err(system("find the current directory"))?,
        created: SystemTime::now(),
    };
    let name = match &task.name {
        Some(name) => name.clone(),
        None => unused()?,
    };
    Ok(Directory::create(&name, &description)?)
}

fn unused() -> Result<Name, Failure> {
    loop {
        let number = RandomState::new().build_hasher().finish();
        let name: Name = format!("{number:016x}")
            .parse()
            .map_err(crumble::Error::from)?;
        if Directory::open(&name).is_err() {
            return Ok(name);
        }
    }
}

/// Starts a machine's keeper and waits until its command runs; what is wrong it says itself, and ends
/// with that code.
fn launch(directory: &Directory) -> Result<Option<ExitCode>, Failure> {
    let program = env::current_exe().map_err(system("find this program"))?;
    let mut keeper = process::Command::new(program)
        .args(["keep", directory.name().as_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(system("start the machine's keeper"))?;
    let starting = Arc::new(AtomicI32::new(i32::try_from(keeper.id()).unwrap_or(0)));
    let ended_by = Arc::new(AtomicI32::new(0));
    signals::catch({
        let (starting, ended_by) = (Arc::clone(&starting), Arc::clone(&ended_by));
        move |signal| {
            let pid = starting.load(Ordering::Relaxed);
            if signals::ends(signal) && pid != 0 {
                ended_by.store(signal, Ordering::Relaxed);
                // Its machine ends with it.
                let _ = send(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    })
    .map_err(system("catch signals"))?;
    let mut word = String::new();
    if let Some(stdout) = keeper.stdout.take() {
        let read = BufReader::new(stdout).read_line(&mut word);
        read.map_err(system("hear of the machine"))?;
    }
    // From here on it is nobody's to interrupt.
    starting.store(0, Ordering::Relaxed);
    if word.trim_end() == keep::STARTED {
        return Ok(None);
    }
    let status = keeper.wait().map_err(system("wait for the keeper"))?;
    let signal = ended_by.load(Ordering::Relaxed);
    if signal != 0 {
        eprintln!("crumble: ended by {}", signal_name(signal));
        return Ok(Some(signal_code(signal).into()));
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    match code.filter(|code| *code != 0) {
        Some(code) => Ok(Some(code.into())),
        None => Err(Failure::Keeper(status)),
    }
}

/// Does something with machines, one after the other, and prints the name of each when it is done.
fn each(
    names: &[Name],
    act: impl Fn(&Handle) -> Result<(), detached::Error>,
) -> Result<ExitCode, Failure> {
    for name in names {
        act(&Handle::open(name)?)?;
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// `crumble stop`.
pub(crate) fn stop(names: &[Name], limit: Duration) -> Result<ExitCode, Failure> {
    each(names, |handle| handle.stop(limit))
}

/// `crumble restart`.
pub(crate) fn restart(names: &[Name], limit: Duration) -> Result<ExitCode, Failure> {
    for name in names {
        match Handle::open(name)?.stop(limit) {
            Err(detached::Error::NotRunning(_)) => {}
            done => done?,
        }
    }
    start(names)
}

/// `crumble kill`.
pub(crate) fn kill(names: &[Name], signal: i32) -> Result<ExitCode, Failure> {
    each(names, |handle| handle.kill(signal))
}

/// `crumble device restart`.
pub(crate) fn restart_device(name: &Name, device: &str) -> Result<ExitCode, Failure> {
    Handle::open(name)?.replace_device(device)?;
    Ok(ExitCode::SUCCESS)
}

/// `crumble pause` and `crumble unpause`.
pub(crate) fn pause(names: &[Name], pause: bool) -> Result<ExitCode, Failure> {
    each(names, |handle| handle.pause(pause))
}

/// `crumble wait`.
pub(crate) fn wait(names: &[Name]) -> Result<ExitCode, Failure> {
    for name in names {
        match Handle::open(name)?.wait()? {
            Some(ended) => println!("{}", ended.code),
            None => return Err(Failure::NoEnd(name.clone())),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `crumble rm`: what is known of a machine, and what is kept of it.
pub(crate) fn remove(names: &[Name], force: bool) -> Result<ExitCode, Failure> {
    let images = crumble::Images::of_user()?;
    for name in names {
        let known = Handle::open(name);
        if let Ok(handle) = &known {
            if force && handle.directory().is_running()? {
                handle.kill(Signal::SIGKILL as i32)?;
                handle.directory().wait()?;
            }
            handle.directory().remove()?;
        }
        match images.forget(name) {
            Err(crumble::Error::NoKept(_)) if known.is_ok() => {}
            done => done?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `crumble exec`.
pub(crate) fn exec(options: Exec) -> Result<ExitCode, Failure> {
    let size = run::size(&options.how)?;
    let tty = options.how.tty;
    let guest = Handle::open(&options.name)?.guest()?;
    let work = move |tell: &Teller<crumble::ExitStatus>| {
        let mut words = options.command.iter();
        let mut command = guest.command(words.next().cloned().unwrap_or_default());
        command.args(words);
        run::apply(&options.how, size, &mut command);
        let mut child = command.spawn()?;
        tell.running(child.remote()?);
        Ok(child.wait()?)
    };
    match attend(None, tty, work)? {
        Attended::Done(status) => Ok(ExitCode::from(status.exit_code())),
        Attended::Signalled(signal) => Ok(ExitCode::from(signal_code(signal))),
        // There is no limit.
        Attended::TimedOut => Err(Failure::Worker),
    }
}

/// A machine in `crumble ps`.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    image: String,
    status: String,
    /// Only if it runs.
    state: Option<State>,
    exit_code: Option<u8>,
    reason: Option<String>,
}

/// `crumble ps`.
pub(crate) fn list(options: &Ps) -> Result<ExitCode, Failure> {
    let mut machines = Vec::new();
    for directory in Directory::all()? {
        if options.all || directory.is_running()? {
            machines.push(look_at(directory)?);
        }
    }
    if options.json {
        print(&json(&machines)?)?;
    } else if options.quiet {
        machines
            .iter()
            .for_each(|machine| println!("{}", machine.name));
    } else {
        println!("{:16} {:24} {:28} PORTS", "NAME", "IMAGE", "STATUS");
        for machine in machines {
            let ports = machine.state.map(|state| state.published.join(", "));
            let line = format!(
                "{:16} {:24} {:28} {}",
                machine.name,
                machine.image,
                machine.status,
                ports.unwrap_or_default()
            );
            println!("{}", line.trim_end());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn look_at(directory: Directory) -> Result<Listed, Failure> {
    let handle = Handle::from(directory);
    let directory = handle.directory();
    let image = directory.description()?.image;
    let ended = directory.ended()?;
    let state = handle.state().ok();
    let status = match (&state, &ended) {
        (Some(state), _) => format!("{} {}", state.status, since(state.started)),
        (None, Some(ended)) => format!("exited ({}) {} ago", ended.code, since(ended.at)),
        (None, None) if directory.was_started() => "its keeper was killed".to_owned(),
        (None, None) => "created".to_owned(),
    };
    Ok(Listed {
        name: directory.name().to_string(),
        image,
        status,
        exit_code: ended.as_ref().map(|ended| ended.code),
        reason: ended.and_then(|ended| ended.reason),
        state,
    })
}

/// How long ago, to the greatest unit but one.
fn since(time: SystemTime) -> String {
    let passed = time.elapsed().unwrap_or_default().as_secs();
    let text = humantime::format_duration(Duration::from_secs(passed)).to_string();
    let mut words = text.split(' ');
    let first = words.next().unwrap_or_default();
    match words.next() {
        Some(second) => format!("{first} {second}"),
        None => first.to_owned(),
    }
}
