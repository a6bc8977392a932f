//! The half outside of the jail: opens what the program is to have, starts the other half in new
//! namespaces, and waits.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use handoff::Channel;
use jailer::{Exit, Launch};
use policy::Policy;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::arguments::{Arguments, Descriptor, Open};
use crate::error::{Error, Result, file};
use crate::rules::{self, Sources};

/// How the other half knows that it is that.
pub(crate) const TITLE: &str = "crumble-jailer: ";

/// The name of the program's file among the descriptors.
pub(crate) const PROGRAM: &str = "program";

/// What the other half is told. The descriptors are named by their numbers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) sources: Sources,
    pub(crate) trace: bool,
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) env: Vec<Vec<u8>>,
}

/// Does what the command line says; the exit code.
pub(crate) fn run(arguments: Arguments) -> Result<u8> {
    let sources = rules::sources(&arguments.policy)?;
    let name = arguments.policy.file_stem().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let policy = rules::policy(&rules::table(&sources)?, &name, arguments.trace)?;
    if arguments.print {
        print!("{policy}");
        return Ok(0);
    }
    let config = Config {
        sources,
        trace: arguments.trace,
        argv: arguments.program.iter().map(bytes).collect(),
        env: arguments.env.iter().map(bytes).collect(),
        name,
    };
    let program = arguments.program.first().map(OsString::as_os_str);
    let program = find(program.unwrap_or_default())?;
    let opened = File::open(&program).map_err(file("open the program", &program))?;
    let fds = open_all(&arguments.fds)?;
    let (channel, theirs) = Channel::pair()?;
    let own = "/proc/self/exe";
    let own = File::open(own).map_err(file("open this program's own file", own))?;
    // The other half sets the limits, when it needs no more than the program.
    let unlimited = Policy {
        limits: &[],
        ..*policy
    };
    let mut process = jailer::spawn(Launch {
        policy: Box::leak(Box::new(unlimited)),
        program: own.as_fd(),
        title: &format!("{TITLE}{}", config.name),
        stderr: stderr().as_fd(),
        channel: theirs,
    })?;
    let (input, output) = (stdin(), stdout());
    let mut resources = vec![
        ("0".to_owned(), input.as_fd()),
        ("1".to_owned(), output.as_fd()),
        (PROGRAM.to_owned(), opened.as_fd()),
    ];
    resources.extend(fds.iter().map(named));
    handoff::start(&channel, &config, &resources)?;
    drop(channel);
    let exit = process.wait(None)?;
    Ok(code(exit))
}

fn bytes(text: &OsString) -> Vec<u8> {
    text.as_bytes().to_vec()
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

/// Looks a program up as a shell does.
fn find(program: &OsStr) -> Result<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(program));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|directory| directory.join(program));
    let mut found = found.filter(|path| path.is_file());
    let name = || program.to_string_lossy().into_owned();
    found.next().ok_or_else(|| Error::NoProgram(name()))
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
