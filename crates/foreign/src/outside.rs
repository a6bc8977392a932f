//! The half outside of the jail: reads the policy and opens the program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use policy::Policy;
use serde::{Deserialize, Serialize};

use crate::rules::{self, Sources};
use crate::{Error, Result, file};

/// The name of the program's file among the descriptors. Every other one is named by its number.
pub(crate) const FILE: &str = "program";

/// What the half inside is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub(crate) name: String,
    pub(crate) sources: Sources,
    pub(crate) trace: bool,
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) env: Vec<Vec<u8>>,
}

/// What is to be run, and under what.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// The policy's file.
    pub policy: &'a Path,
    /// The program and its arguments. Without `/` it is looked up in PATH.
    pub argv: &'a [OsString],
    /// Its environment, as `NAME=VALUE`.
    pub env: &'a [OsString],
    /// What the policy forbids of system calls is allowed, and written to the kernel's log.
    pub trace: bool,
}

/// A program whose policy makes sense, ready to be started as often as one likes.
pub struct Foreign {
    config: Config,
    policy: &'static Policy,
    /// Of the half inside. It sets the limits when it needs no more than the program.
    unlimited: &'static Policy,
    program: OwnedFd,
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Foreign");
        debug.field("config", &self.config).finish_non_exhaustive()
    }
}

impl Foreign {
    /// Reads the policy of `command` and opens its program. The policy lives as long as this process.
    ///
    /// # Errors
    /// [`Error::Policy`], [`Error::File`] or [`Error::NoProgram`].
    pub fn open(command: Command<'_>) -> Result<Self> {
        let (name, sources) = sources(command.policy)?;
        let policy = rules::policy(&rules::table(&sources)?, &name, command.trace)?;
        let program = command.argv.first().map(OsString::as_os_str);
        let program = find(program.unwrap_or_default())?;
        let opened = File::open(&program).map_err(file("open the program", &program))?;
        let unlimited = Policy {
            limits: &[],
            ..*policy
        };
        Ok(Self {
            config: Config {
                name,
                sources,
                trace: command.trace,
                argv: command.argv.iter().map(bytes).collect(),
                env: command.env.iter().map(bytes).collect(),
            },
            policy,
            unlimited: Box::leak(Box::new(unlimited)),
            program: opened.into(),
        })
    }

    /// The policy in a file, as a table for people.
    ///
    /// # Errors
    /// As [`Foreign::open`].
    pub fn read_policy(path: &Path) -> Result<&'static Policy> {
        let (name, sources) = sources(path)?;
        rules::policy(&rules::table(&sources)?, &name, false)
    }

    /// What the program may do.
    #[must_use]
    pub const fn policy(&self) -> &'static Policy {
        self.policy
    }

    /// What the half inside is to be spawned with: it sets the limits itself, when it needs no more than the
    /// program.
    #[must_use]
    pub const fn unlimited(&self) -> &'static Policy {
        self.unlimited
    }

    /// What it is told.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it is given, beside the program's own descriptors, which are named by their numbers.
    #[must_use]
    pub fn resource(&self) -> (String, BorrowedFd<'_>) {
        (FILE.to_owned(), self.program.as_fd())
    }
}

/// A policy's name and texts.
fn sources(path: &Path) -> Result<(String, Sources)> {
    let name = path.file_stem().unwrap_or_default();
    Ok((name.to_string_lossy().into_owned(), rules::sources(path)?))
}

fn bytes(text: &OsString) -> Vec<u8> {
    text.as_bytes().to_vec()
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
