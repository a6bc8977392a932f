//! Failures and how they end the process.

use std::{
    error::Error,
    io::{self, IsTerminal, Write as _},
    iter,
    path::PathBuf,
    process::{ExitCode, ExitStatus},
};

use nix::sys::signal::Signal;
use serde::Serialize;

/// The exit code of timeout(1) when the time was up.
const TIMEOUT: u8 = 124;

/// Why `crumble` did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The machine or the command in it.
    #[error(transparent)]
    Machine(#[from] crumble::Error),
    /// A machine that has a keeper.
    #[error(transparent)]
    Detached(#[from] detached::Error),
    /// The file of a machine.
    #[error(transparent)]
    File(#[from] machine_file::Error),
    /// A description that makes no sense, perhaps to this version.
    #[error("what the machine was created with makes no sense: {0}")]
    Described(String),
    /// An option for who waits.
    #[error("{0} is for who waits for the machine; leave it out, or run the machine without -d")]
    Watched(&'static str),
    /// The keeper ended without a word.
    #[error("the machine's keeper ended before the machine ran: {0}")]
    Keeper(ExitStatus),
    /// A machine has not ended as machines do.
    #[error("the machine {0} has no exit code: it has never run, or its keeper was killed")]
    NoEnd(crumble::Name),
    /// A machine could not be inspected.
    #[error(transparent)]
    Inspect(#[from] inspect::Error),
    /// What it takes root's rights for.
    #[error("this takes root's rights; try `{command}`")]
    Rights {
        /// The same with those rights.
        command: String,
        /// What was refused.
        source: crumble::Error,
    },
    /// A user of this host that there is not.
    #[error("this host has no user \"{0}\"; `getent passwd` lists them")]
    NoUser(String),
    /// The command ran too long.
    #[error("the command ran longer than {0} and was ended")]
    Timeout(humantime::FormattedDuration),
    /// `-t` without a terminal.
    #[error("--tty needs a terminal, and standard input is none; leave out -t, or use -i alone")]
    NoTerminal,
    /// The thread that ran the machine panicked, and has said why.
    #[error("the machine's thread ended unexpectedly")]
    Worker,
    /// The store of images, or a registry.
    #[error(transparent)]
    Image(Box<crumble::image::Error>),
    /// A file that is to be written.
    #[error("cannot make the file {}", path.display())]
    Create {
        /// Its path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// An archive that would be shown.
    #[error("an archive is nothing to look at: name a file with -o, or redirect the output")]
    ArchiveToTerminal,
    /// An archive that would be typed.
    #[error("an archive is nothing to type: name a file with -i, or redirect the input")]
    ArchiveFromTerminal,
    /// A date that is none.
    #[error("SOURCE_DATE_EPOCH is {0:?}; give seconds since 1970, or unset it")]
    Date(String),
    /// The system refused something.
    #[error("cannot {what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl From<crumble::image::Error> for Failure {
    fn from(error: crumble::image::Error) -> Self {
        Self::Image(Box::new(error))
    }
}

impl Failure {
    /// Prints the failure with its causes, and returns the code to exit with.
    pub(crate) fn report(&self) -> ExitCode {
        let causes = iter::successors(self.source(), |error| (*error).source());
        let text = iter::once(self.to_string())
            .chain(causes.map(ToString::to_string))
            .collect::<Vec<_>>()
            .join(": ");
        let mark = paint("crumble:", RED);
        eprintln!("{mark} {text}");
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Timeout(_) => TIMEOUT,
            Self::Machine(error) | Self::Detached(detached::Error::Machine(error)) => {
                error.exit_code()
            }
            _ => crumble::Error::FAILED,
        }
    }
}

/// A failure of the system's.
pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::System { what, source }
}

/// Writes a report to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(system("print the report"))
}

/// A report for programs.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    Ok(text.map_err(|error| system("print the report")(error.into()))? + "\n")
}

pub(crate) const RED: u8 = 31;
pub(crate) const GREEN: u8 = 32;
pub(crate) const YELLOW: u8 = 33;
pub(crate) const BLUE: u8 = 34;

/// `text` in a colour if standard error is a terminal that wants it.
pub(crate) fn paint(text: &str, colour: u8) -> String {
    paint_if(text, colour, wants_colour(io::stderr().is_terminal()))
}

/// Whether colours are wanted where text goes that may be a terminal.
pub(crate) fn wants_colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `text` in a colour (ECMA-48 SGR parameter) if colours are `wanted`.
pub(crate) fn paint_if(text: &str, colour: u8, wanted: bool) -> String {
    if wanted {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// The code of a process that `signal` ended.
pub(crate) fn signal_code(signal: i32) -> u8 {
    u8::try_from(signal)
        .ok()
        .and_then(|number| number.checked_add(128))
        .unwrap_or(u8::MAX)
}

/// The name of a signal, for people.
pub(crate) fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_128_and_their_number() {
        assert_eq!((signal_code(2), signal_code(15)), (130, 143));
        assert_eq!((signal_code(-1), signal_code(1000)), (255, 255));
        assert_eq!(signal_name(15), "SIGTERM");
    }

    #[test]
    fn failures_have_the_codes_of_podman_and_timeout() {
        let limit = humantime::format_duration(std::time::Duration::from_secs(1));
        assert_eq!(Failure::Timeout(limit).code(), 124);
        assert_eq!(Failure::NoTerminal.code(), 125);
        assert_eq!(Failure::Inspect(inspect::Error::Gone(1)).code(), 125);
        let refused = |kind| {
            let message = String::new();
            let error = crumble::Error::Agent(crumble::AgentError::Refused { kind, message });
            Failure::from(error).code()
        };
        assert_eq!(refused(crumble::FailureKind::NotExecutable), 126);
        assert_eq!(refused(crumble::FailureKind::NotFound), 127);
        assert_eq!(refused(crumble::FailureKind::Other), 125);
    }
}
