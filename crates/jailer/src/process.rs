//! A started component, as the host holds it.

use std::fmt::{Display, Formatter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::{Error, Result, sys};

/// How a component ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this status, 0 to 255.
    Code(i32),
    /// By this signal's number.
    Signal(i32),
}

impl Display for Exit {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with status {code}"),
            Self::Signal(libc::SIGSYS) => {
                f.write_str("was killed by SIGSYS: its policy forbids a system call that it made")
            }
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was killed by {signal}"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
        }
    }
}

/// A component's process. Dropping it kills and reaps it.
///
/// The process is also killed when the *thread* that called [`crate::spawn`] ends, because that is
/// what the kernel's parent-death signal is tied to: spawn from a thread that lives as long as the
/// component should.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    exit: Option<Exit>,
}

impl Process {
    /// A process that was just made.
    pub(crate) const fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            exit: None,
        }
    }

    /// Its process id in the host's namespace.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// A descriptor of it, readable once it ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How it ended, if it has. Reaps it.
    ///
    /// # Errors
    /// [`Error::Wait`] if it was reaped by somebody else.
    pub fn try_wait(&mut self) -> Result<Option<Exit>> {
        self.reap(WaitPidFlag::WNOHANG)
    }

    /// Waits until it ends, at most `limit` (for ever, if none); `None` if it still runs.
    ///
    /// # Errors
    /// [`Error::Wait`] if it was reaped by somebody else.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Option<Exit>> {
        let Some(limit) = limit else {
            return self.reap(WaitPidFlag::empty());
        };
        let deadline = Instant::now().checked_add(limit);
        loop {
            if let Some(exit) = self.try_wait()? {
                return Ok(Some(exit));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            self.poll(left)?;
        }
    }

    /// Kills it. It is still to be waited for.
    ///
    /// # Errors
    /// [`Error::Prepare`] if the kernel refuses, which it does not for a process of ours.
    pub fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL, "kill a component")
    }

    /// Lets none of its threads run until [`Process::resume`].
    ///
    /// # Errors
    /// As [`Process::kill`].
    pub fn stop(&self) -> Result<()> {
        self.signal(libc::SIGSTOP, "stop a component")
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// As [`Process::kill`].
    pub fn resume(&self) -> Result<()> {
        self.signal(libc::SIGCONT, "resume a component")
    }

    fn signal(&self, signal: i32, what: &'static str) -> Result<()> {
        match sys::signal(self.pidfd(), signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(Error::Prepare(what, error))
            }
            _ => Ok(()),
        }
    }

    /// Waits until it ends or `left` is over.
    fn poll(&self, left: Option<Duration>) -> Result<()> {
        // Rounded up, so that a last fraction of a millisecond does not spin.
        let left = left.map(|left| left.saturating_add(Duration::from_micros(999)));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [PollFd::new(self.pidfd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(Error::Wait(self.pid, error.into())),
        }
    }

    /// Takes the exit status from the kernel, once.
    fn reap(&mut self, flags: WaitPidFlag) -> Result<Option<Exit>> {
        if self.exit.is_some() {
            return Ok(self.exit);
        }
        let flags = flags | WaitPidFlag::WEXITED | WaitPidFlag::__WALL;
        let status = loop {
            match waitid(Id::PIDFd(self.pidfd.as_fd()), flags) {
                Err(Errno::EINTR) => {}
                other => break other.map_err(|error| Error::Wait(self.pid, error.into()))?,
            }
        };
        self.exit = match status {
            WaitStatus::Exited(_, code) => Some(Exit::Code(code)),
            WaitStatus::Signaled(_, signal, _) => Some(Exit::Signal(signal as i32)),
            _ => None,
        };
        Ok(self.exit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit.is_none() && self.kill().is_ok() {
            // The status does not matter any more, nor does who took it.
            let _ = self.wait(None);
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd()
    }
}
