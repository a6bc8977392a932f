//! One command, from its start to its exit status.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, open},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
    unistd::{Pid, pipe2},
};
use wire::{
    agent::{Control, Event, Exec, Exit, Stream},
    frame,
};

use crate::{
    command::{self, Streams},
    error::{Result, cannot},
    pump::{self, Pump},
    serve::{Connection, send},
    spawn::spawn,
    sys, terminal,
};

/// The connections that are a command's streams.
pub(crate) type Attached = BTreeMap<Stream, Connection>;

/// The size of a pipe, for fewer wake-ups; more than `/proc/sys/fs/pipe-max-size` is refused, and
/// then the default stays.
const PIPE: i32 = 1 << 20;

/// Between the SIGHUP and the SIGKILL to a command whose host is gone.
const HANG_UP_TIME: Duration = Duration::from_secs(2);

/// How long a terminal may take to give its last output after its command exited.
const TERMINAL_TIME: Duration = Duration::from_secs(1);

/// Starts the command and stays with it; everything that can fail does so before it starts.
pub(crate) fn run(exec: &Exec, attached: Attached, control: &mut Connection) -> Result<()> {
    let (streams, mut session) = plumb(exec, attached)?;
    let image = command::image(exec, streams)?;
    let pid = spawn(image).map_err(|failure| command::explain(exec, failure))?;
    session.pid = pid;
    send(
        control,
        &Event::Started {
            pid: pid.as_raw().unsigned_abs(),
        },
    );
    let exit = session.attend(control)?;
    send(control, &Event::Exited(exit));
    Ok(())
}

/// A command that runs.
struct Session {
    pid: Pid,
    /// Host to guest; of no use once the command has exited.
    inputs: Vec<Pump>,
    /// Guest to host; they outlive the command until all it wrote is out.
    outputs: Vec<Pump>,
    /// The terminal's master.
    terminal: Option<OwnedFd>,
    exit: Option<Exit>,
    /// Before the exit: when to kill. After it: when to give up on output.
    deadline: Option<Instant>,
}

/// Makes the command's ends of its streams, and the pumps behind them.
fn plumb(exec: &Exec, mut attached: Attached) -> Result<(Streams, Session)> {
    let mut session = Session {
        pid: Pid::from_raw(0),
        inputs: Vec::new(),
        outputs: Vec::new(),
        terminal: None,
        exit: None,
        deadline: None,
    };
    let system = |errno| cannot("set up the command's streams")(errno);
    if let (Some(size), Some(host)) = (exec.terminal, attached.remove(&Stream::Terminal)) {
        let (master, slave) = terminal::open_pair(size)?;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|_| system(Errno::EMFILE));
        let (master, host) = (OwnedFd::from(master), OwnedFd::from(host));
        session
            .inputs
            .push(Pump::new(copy(&host)?, copy(&master)?).map_err(system)?);
        session
            .outputs
            .push(Pump::new(copy(&master)?, host).map_err(system)?);
        session.terminal = Some(master);
        let streams = Streams {
            stdin: copy(&slave)?,
            stdout: copy(&slave)?,
            stderr: slave,
        };
        return Ok((streams, session));
    }
    let stdin = match attached.remove(&Stream::Stdin) {
        None => null()?,
        Some(host) => {
            let (reader, writer) = pipe().map_err(system)?;
            session
                .inputs
                .push(Pump::new(host.into(), writer).map_err(system)?);
            reader
        }
    };
    let mut output = |host: Option<Connection>| match host {
        None => null(),
        Some(host) => {
            let (reader, writer) = pipe().map_err(system)?;
            session
                .outputs
                .push(Pump::new(reader, host.into()).map_err(system)?);
            Ok(writer)
        }
    };
    let streams = Streams {
        stdin,
        stdout: output(attached.remove(&Stream::Stdout))?,
        stderr: output(attached.remove(&Stream::Stderr))?,
    };
    Ok((streams, session))
}

fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // Only slower if refused.
    let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE));
    Ok((reader, writer))
}

fn null() -> Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    open("/dev/null", flags, Mode::empty()).map_err(cannot("open /dev/null"))
}

/// What a wait ended with, besides the pumps' own readiness.
struct Ready {
    exited: bool,
    control: bool,
}

impl Session {
    /// Pumps, obeys and waits until the command has exited and all that it wrote is delivered.
    fn attend(&mut self, control: &mut Connection) -> Result<Exit> {
        let pidfd = sys::pidfd_open(self.pid).map_err(cannot("watch the command"))?;
        let mut host = Some(control);
        loop {
            if let Some(exit) = self.exit
                && (self.outputs.is_empty() || self.is_overdue())
            {
                return Ok(exit);
            }
            let ready = self.wait(&pidfd, host.as_deref())?;
            if ready.control && !host.as_deref_mut().is_some_and(|host| self.obey(host)) {
                host = None;
                self.hang_up();
            }
            if ready.exited {
                self.exited()?;
            } else if self.exit.is_none() && self.is_overdue() {
                self.signal(libc::SIGKILL);
                self.deadline = None;
            }
            self.pump();
        }
    }

    /// Waits for anything to do.
    fn wait(&mut self, pidfd: &OwnedFd, host: Option<&Connection>) -> Result<Ready> {
        let pumps = || self.inputs.iter().chain(&self.outputs);
        let mut fds = Vec::with_capacity(8);
        fds.extend(pumps().map(|pump| pump.interest().1));
        fds.extend(pumps().filter_map(|pump| pump.interest().0));
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        fds.extend(host.map(|host| readable(host.as_fd())));
        fds.extend(self.exit.is_none().then(|| readable(pidfd.as_fd())));
        let timeout = self.deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the wait is not over before the time is.
            let left = left.saturating_add(Duration::from_millis(1));
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(cannot("wait for the command")(errno)),
        }
        let mut last = fds.iter().rev().map(|fd| fd.any().unwrap_or_default());
        let exited = self.exit.is_none() && last.next().unwrap_or_default();
        let control = host.is_some() && last.next().unwrap_or_default();
        let hung_up: Vec<bool> = fds.iter().map(pump::hung_up).collect();
        let pumps = self.inputs.iter_mut().chain(&mut self.outputs);
        for (pump, _) in pumps.zip(hung_up).filter(|(_, hung_up)| *hung_up) {
            pump.sink_hung_up();
        }
        Ok(Ready { exited, control })
    }

    fn pump(&mut self) {
        for pumps in [&mut self.inputs, &mut self.outputs] {
            pumps.iter_mut().for_each(Pump::run);
            pumps.retain(|pump| !pump.is_done());
        }
        if self.outputs.is_empty() {
            // The host closed its end: closing the master hangs the command up.
            self.inputs.clear();
            self.terminal = None;
        }
    }

    /// Does what the host says; false if it has gone.
    fn obey(&mut self, host: &mut Connection) -> bool {
        match frame::read::<Control>(host) {
            Ok(Some(Control::Signal(signal))) => self.signal(signal),
            Ok(Some(Control::Resize(size))) => {
                if let Some(terminal) = &self.terminal {
                    // The command may have closed its terminal; then there is nothing to resize.
                    let _ = sys::set_terminal_size(terminal.as_fd(), size);
                }
            }
            Ok(None) | Err(_) => return false,
        }
        true
    }

    fn signal(&self, signal: i32) {
        // Once reaped, the number may belong to another process.
        if self.exit.is_none() {
            sys::signal_group(self.pid, signal);
        }
    }

    fn hang_up(&mut self) {
        self.signal(libc::SIGHUP);
        self.signal(libc::SIGCONT);
        self.deadline = Instant::now().checked_add(HANG_UP_TIME);
    }

    fn is_overdue(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Takes the exit status; from now on output is what has been written, whoever else still
    /// holds the other end.
    fn exited(&mut self) -> Result<()> {
        self.exit = Some(sys::wait(self.pid).map_err(cannot("wait for the command"))?);
        self.inputs.clear();
        if self.terminal.is_some() {
            // The exit of the session's leader hangs the terminal up; its output then ends by
            // itself, but not at once.
            self.deadline = Instant::now().checked_add(TERMINAL_TIME);
        } else {
            self.outputs.iter_mut().for_each(Pump::end_when_empty);
        }
        Ok(())
    }
}
