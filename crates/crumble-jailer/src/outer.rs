//! The half outside of the jail: opens what the program is to have, starts the other half in new
//! namespaces, and waits.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use foreign::{Command, Foreign, TITLE};
use handoff::Channel;
use jailer::{Exit, Launch};
use rustix::fs::{Mode, OFlags};

use crate::arguments::{Arguments, Descriptor, Open};
use crate::error::{Error, Result, file};

/// Does what the command line says; the exit code.
pub(crate) fn run(arguments: Arguments) -> Result<u8> {
    if arguments.print {
        print!("{}", Foreign::read_policy(&arguments.policy)?);
        return Ok(0);
    }
    let foreign = Foreign::open(Command {
        policy: &arguments.policy,
        argv: &arguments.program,
        env: &arguments.env,
        trace: arguments.trace,
    })?;
    let fds = open_all(&arguments.fds)?;
    let (channel, theirs) = Channel::pair()?;
    let own = "/proc/self/exe";
    let own = File::open(own).map_err(file("open this program's own file", own))?;
    let mut process = jailer::spawn(Launch {
        policy: foreign.unlimited(),
        program: own.as_fd(),
        title: &format!("{TITLE}{}", foreign.name()),
        stderr: stderr().as_fd(),
        channel: theirs,
    })?;
    let (input, output) = (stdin(), stdout());
    let mut resources = vec![
        ("0".to_owned(), input.as_fd()),
        ("1".to_owned(), output.as_fd()),
        foreign.resource(),
    ];
    resources.extend(fds.iter().map(named));
    handoff::start(&channel, foreign.config(), &resources)?;
    drop(channel);
    let exit = process.wait(None)?;
    Ok(code(exit))
}

fn named((number, fd): &(i32, OwnedFd)) -> (String, BorrowedFd<'_>) {
    (number.to_string(), fd.as_fd())
}

/// The code of an end, as a shell has it.
fn code(exit: Option<Exit>) -> u8 {
    let code = match exit {
        Some(Exit::Code(code)) => code,
        Some(Exit::Signal(signal)) => signal.saturating_add(128),
        None => i32::from(crate::NOT_STARTED),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn open_all(wanted: &[Descriptor]) -> Result<Vec<(i32, OwnedFd)>> {
    let mut numbers = BTreeSet::new();
    let open_one = |descriptor: &Descriptor| {
        if !numbers.insert(descriptor.number) {
            return Err(Error::Number(descriptor.number));
        }
        let fd = open(descriptor.open, &descriptor.path);
        Ok((
            descriptor.number,
            fd.map_err(file("open", &descriptor.path))?,
        ))
    };
    wanted.iter().map(open_one).collect()
}

fn open(how: Open, path: &Path) -> io::Result<OwnedFd> {
    let flags = match how {
        Open::Listen => return UnixListener::bind(path).map(OwnedFd::from),
        Open::Read => OFlags::RDONLY,
        Open::Write => OFlags::RDWR,
        Open::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
    };
    Ok(rustix::fs::open(
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}
