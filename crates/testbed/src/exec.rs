//! Commands in the box, as if they ran here.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal, Read, Write},
    net::Shutdown,
    os::unix::{ffi::OsStrExt, net::UnixStream},
    path::PathBuf,
    thread,
};

use agent_client::{Child, Client, Error as AgentError, Exec, Exit, FailureKind, Remote, Size};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH},
    iterator::Signals,
};

use crate::{
    client::Testbed,
    error::{Result, system},
    here::IN_THE_BOX,
};

/// Exit codes as a shell's: the program cannot be executed, there is none, a signal ended it.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const SIGNALLED: u8 = 128;

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; 128 and the signal's number if one ended it.
    pub code: u8,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// A command for the box, with this process's environment and working directory.
#[derive(Debug, Clone)]
pub struct Command {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
}

impl Command {
    /// `argv`: the program and its arguments.
    pub fn new<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            argv: argv.into_iter().map(|a| a.as_ref().to_owned()).collect(),
            env: env::vars_os().collect(),
            cwd: env::current_dir().unwrap_or_else(|_| "/".into()),
        }
    }

    /// Sets a variable of its environment.
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let pair = (key.as_ref().to_owned(), value.as_ref().to_owned());
        self.env.push(pair);
        self
    }

    /// Runs it: its input and output are this process's, signals are passed on. Returns its exit
    /// code, 128 and the signal's number if one ended it, 127 or 126 (with a line to stderr) if
    /// there is no such program or it cannot be executed.
    ///
    /// # Errors
    /// If the box ends first.
    pub fn run(&self, testbed: &Testbed) -> Result<u8> {
        let mut exec = self.request();
        match terminal_size() {
            Some(size) => exec.terminal(size),
            None => exec.attach(true, true, true),
        };
        // Before the command starts, so that no signal is missed.
        let signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH])
            .map_err(system("handle signals"))?;
        let mut child = match testbed.agent()?.exec(exec) {
            Err(AgentError::Refused { kind, message }) => return refused(kind, &message),
            other => other?,
        };
        let remote = child.remote()?;
        let handle = signals.handle();
        let forwarder = thread::spawn(move || forward(signals, &remote));
        let raw = child.terminal.is_some().then(Raw::enter).flatten();
        let exit = pump(&mut child);
        drop(raw);
        handle.close();
        // It holds nothing but a closed iterator.
        let _ = forwarder.join();
        Ok(code(exit?))
    }

    /// Sets its working directory.
    pub fn current_dir(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.cwd = directory.into();
        self
    }

    /// Runs it without input, and gathers what it writes.
    ///
    /// # Errors
    /// If the box ends first, or there is no such program in it.
    pub fn output(&self, testbed: &Testbed) -> Result<Output> {
        self.output_from(&testbed.agent()?)
    }

    /// As [`Command::output`], in the machine of this agent.
    ///
    /// # Errors
    /// If the machine ends first, or there is no such program in it.
    pub fn output_from(&self, agent: &Client) -> Result<Output> {
        let mut exec = self.request();
        exec.attach(false, true, true);
        let mut child = agent.exec(exec)?;
        let readers = [child.stdout.take(), child.stderr.take()].map(|stream| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                // If the box is lost, the wait below says so.
                let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
                bytes
            })
        });
        let exit = child.wait();
        let [stdout, stderr] = readers.map(|reader| reader.join().unwrap_or_default());
        Ok(Output {
            code: code(exit?),
            stdout,
            stderr,
        })
    }

    fn request(&self) -> Exec {
        let mut argv = self.argv.iter().map(|argument| argument.as_bytes());
        let mut exec = Exec::new(argv.next().unwrap_or_default());
        for argument in argv {
            exec.arg(argument);
        }
        for (key, value) in &self.env {
            exec.env(key.as_bytes(), value.as_bytes());
        }
        exec.env(IN_THE_BOX.as_bytes(), b"1");
        exec.cwd(self.cwd.as_os_str().as_bytes());
        exec
    }
}

/// What a command's end is to a shell.
fn code(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or_default()),
    }
}

fn refused(kind: FailureKind, message: &str) -> Result<u8> {
    let code = match kind {
        FailureKind::NotFound => NOT_FOUND,
        FailureKind::NotExecutable => NOT_EXECUTABLE,
        _ => {
            return Err(AgentError::Refused {
                kind,
                message: message.to_owned(),
            }
            .into());
        }
    };
    let _ = writeln!(io::stderr(), "testbed: {message}");
    Ok(code)
}

/// The size of the terminal, if input and output are one.
fn terminal_size() -> Option<Size> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return None;
    }
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// The terminal in raw mode: keys go to the command as they are. Dropping it restores the mode.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Passes signals on until the iterator is closed or the command is gone.
fn forward(mut signals: Signals, remote: &Remote) {
    for signal in signals.forever() {
        let sent = match signal {
            SIGWINCH => match terminal_size() {
                Some(size) => remote.resize(size),
                None => Ok(()),
            },
            other => remote.signal(other),
        };
        if sent.is_err() {
            break;
        }
    }
}

/// Moves the command's streams until it has ended and all its output is out.
fn pump(child: &mut Child) -> std::result::Result<Exit, AgentError> {
    let input = child.stdin.take();
    let terminal = child.terminal.take();
    let input = input.or_else(|| terminal.as_ref()?.try_clone().ok());
    if let Some(input) = input {
        // Never joined: it may wait for input that never comes.
        thread::spawn(move || copy_input(input));
    }
    let printers = [
        child
            .stdout
            .take()
            .or(terminal)
            .map(|s| printer(s, io::stdout())),
        child.stderr.take().map(|s| printer(s, io::stderr())),
    ];
    let exit = child.wait();
    for printer in printers.into_iter().flatten() {
        let _ = printer.join();
    }
    exit
}

fn printer(from: UnixStream, to: impl Write + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || copy(from, to))
}

fn copy_input(to: UnixStream) {
    if let Ok(socket) = to.try_clone() {
        copy(io::stdin(), to);
        let _ = socket.shutdown(Shutdown::Write);
        // What is left of the connection ends with the command.
        let _ = (&socket).read(&mut [0]);
    }
}

/// Copies until the end of the input; what comes is passed on at once.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        if to.write_all(bytes).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
