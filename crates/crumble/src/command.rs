//! Commands in a machine, shaped like [`std::process`].

use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, net::UnixStream},
    thread::{self, JoinHandle},
};

use agent_client::{Exit, Remote, Size};

use crate::{Error, Guest, Stdio, stdio};

/// A command to be run in a machine, as [`std::process::Command`].
#[derive(Debug, Clone)]
pub struct Command<'m> {
    guest: &'m Guest,
    exec: agent_client::Exec,
    stdin: Option<Stdio>,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
}

impl<'m> Command<'m> {
    /// A command with the environment, the user and the directory that the machine's image has.
    pub(crate) fn new(guest: &'m Guest, program: &OsStr) -> Self {
        let mut command = Self {
            guest,
            exec: agent_client::Exec::new(program.as_bytes()),
            stdin: None,
            stdout: None,
            stderr: None,
        };
        let config = guest.config();
        for line in &config.env {
            command.variable(line);
        }
        if !config.user.is_empty() {
            command.user(&config.user);
        }
        if !config.working_dir.is_empty() {
            command.current_dir(&config.working_dir);
        }
        command
    }

    /// The image's own.
    pub(crate) fn of_image(
        guest: &'m Guest,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Self {
        let config = guest.config();
        let owned = |word: &String| OsString::from(word);
        let mut words: Vec<OsString> = config.entrypoint.iter().map(owned).collect();
        let given = arguments.into_iter().map(|word| word.as_ref().to_owned());
        let given: Vec<OsString> = given.collect();
        if given.is_empty() {
            words.extend(config.cmd.iter().map(owned));
        } else {
            words.extend(given);
        }
        let mut words = words.into_iter();
        let program = words.next().unwrap_or_else(|| "sh".into());
        let mut command = Self::new(guest, &program);
        command.args(words);
        command
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.exec.arg(argument.as_ref().as_bytes());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        for argument in arguments {
            self.arg(argument);
        }
        self
    }

    /// Sets a variable of its environment. Without any, it has the image's, and the agent's:
    /// `PATH`, `HOME`, `USER`, and `TERM` on a terminal. The caller's own environment is not passed
    /// on.
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.exec
            .env(key.as_ref().as_bytes(), value.as_ref().as_bytes());
        self
    }

    /// The same, from `NAME=VALUE`; anything else is nothing.
    pub(crate) fn variable(&mut self, line: &str) {
        if let Some((key, value)) = line.split_once('=') {
            self.env(key, value);
        }
    }

    /// Sets its working directory; without, it is the image's, or the user's home.
    pub fn current_dir(&mut self, directory: impl AsRef<OsStr>) -> &mut Self {
        self.exec.cwd(directory.as_ref().as_bytes());
        self
    }

    /// Runs it as `USER[:GROUP]`, names of the guest or numbers; as the image's user, or root, if
    /// this is not called.
    pub fn user(&mut self, user: &str) -> &mut Self {
        self.exec.user(user);
        self
    }

    /// Runs it on a terminal of its own, its only stream. If standard input and output are
    /// inherited, that is joined to them; otherwise it is [`Child::terminal`].
    pub fn terminal(&mut self, rows: u16, columns: u16) -> &mut Self {
        self.exec.terminal(Size { rows, columns });
        self
    }

    /// What its standard input is.
    pub fn stdin(&mut self, stdio: Stdio) -> &mut Self {
        self.stdin = Some(stdio);
        self
    }

    /// What its standard output is.
    pub fn stdout(&mut self, stdio: Stdio) -> &mut Self {
        self.stdout = Some(stdio);
        self
    }

    /// What its standard error is.
    pub fn stderr(&mut self, stdio: Stdio) -> &mut Self {
        self.stderr = Some(stdio);
        self
    }

    /// Starts it. Streams about which nothing was said are inherited.
    ///
    /// # Errors
    /// [`Error::Exec`] if it does not exist or cannot be run, with the guest's reason.
    pub fn spawn(&mut self) -> Result<Child, Error> {
        self.start(Stdio::Inherit)
    }

    /// Runs it to its end. Streams about which nothing was said are inherited.
    ///
    /// # Errors
    /// As [`Command::spawn`], or if the machine ends before the command.
    pub fn status(&mut self) -> Result<ExitStatus, Error> {
        self.spawn()?.wait()
    }

    /// Runs it to its end and collects what it writes. Its input is empty unless it was said
    /// otherwise.
    ///
    /// # Errors
    /// As [`Command::status`].
    pub fn output(&mut self) -> Result<Output, Error> {
        self.stdin.get_or_insert(Stdio::Null);
        self.start(Stdio::Piped)?.wait_with_output()
    }

    fn start(&self, default: Stdio) -> Result<Child, Error> {
        let wanted = [self.stdin, self.stdout, self.stderr].map(|stdio| stdio.unwrap_or(default));
        let [stdin, stdout, stderr] = wanted.map(|stdio| stdio != Stdio::Null);
        let mut exec = self.exec.clone();
        exec.attach(stdin, stdout, stderr);
        let process = self.guest.agent().exec(exec);
        let process = process.map_err(|error| self.guest.explain(error))?;
        Child::new(process, wanted, self.guest.clone())
    }
}

/// A command that was started, as [`std::process::Child`]. Its streams are Unix sockets: they can
/// be read, written, cloned and polled. Dropping it hangs up on the command.
#[derive(Debug)]
pub struct Child {
    /// Its standard input, if piped. Dropping it ends the input.
    pub stdin: Option<UnixStream>,
    /// Its standard output, if piped.
    pub stdout: Option<UnixStream>,
    /// Its standard error, if piped.
    pub stderr: Option<UnixStream>,
    /// Both directions of its terminal, if it has one.
    pub terminal: Option<UnixStream>,
    process: agent_client::Child,
    copiers: Vec<JoinHandle<()>>,
    guest: Guest,
}

impl Child {
    fn new(
        mut process: agent_client::Child,
        wanted: [Stdio; 3],
        guest: Guest,
    ) -> Result<Self, Error> {
        let [stdin, stdout, stderr] = wanted.map(|stdio| stdio == Stdio::Inherit);
        let mut child = Self {
            stdin: process.stdin.take(),
            stdout: process.stdout.take(),
            stderr: process.stderr.take(),
            terminal: process.terminal.take(),
            process,
            copiers: Vec::new(),
            guest,
        };
        if let Some(stream) = child.terminal.take_if(|_| stdin && stdout) {
            let input = stream.try_clone().map_err(Error::Stream)?;
            stdio::copy_in(io::stdin(), input).map_err(Error::Thread)?;
            let copier = stdio::copy_out(stream, io::stdout()).map_err(Error::Thread)?;
            child.copiers.push(copier);
        }
        if let Some(stream) = child.stdin.take_if(|_| stdin) {
            // Not waited for: it may sit in a read that nothing ends.
            stdio::copy_in(io::stdin(), stream).map_err(Error::Thread)?;
        }
        if let Some(stream) = child.stdout.take_if(|_| stdout) {
            let copier = stdio::copy_out(stream, io::stdout()).map_err(Error::Thread)?;
            child.copiers.push(copier);
        }
        if let Some(stream) = child.stderr.take_if(|_| stderr) {
            let copier = stdio::copy_out(stream, io::stderr()).map_err(Error::Thread)?;
            child.copiers.push(copier);
        }
        Ok(child)
    }

    /// Closes its standard input, waits until it has ended and what it wrote to inherited streams
    /// has been passed on.
    ///
    /// # Errors
    /// If the machine ends before the command.
    pub fn wait(&mut self) -> Result<ExitStatus, Error> {
        self.stdin = None;
        let exit = self.process.wait();
        let exit = exit.map_err(|error| self.guest.explain(error))?;
        for copier in self.copiers.drain(..) {
            // A copier that panicked has said so.
            let _ = copier.join();
        }
        Ok(ExitStatus(exit))
    }

    /// Waits for its end and collects what it writes to piped streams.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn wait_with_output(mut self) -> Result<Output, Error> {
        self.stdin = None;
        let stderr = self.stderr.take().map(collect).transpose()?;
        let stdout = self
            .stdout
            .take()
            .map_or_else(|| Ok(Vec::new()), read_all)?;
        let stderr = stderr.map_or_else(
            || Ok(Vec::new()),
            |collector| collector.join().unwrap_or_else(|_| Ok(Vec::new())),
        )?;
        Ok(Output {
            status: self.wait()?,
            stdout,
            stderr,
        })
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// If the machine has ended.
    pub fn kill(&self) -> Result<(), Error> {
        const SIGKILL: i32 = 9;
        self.remote()?.signal(SIGKILL)?;
        Ok(())
    }

    /// Something that can send signals and terminal sizes from elsewhere while this one waits.
    ///
    /// # Errors
    /// If there are no file descriptors left.
    pub fn remote(&self) -> Result<Remote, Error> {
        Ok(self.process.remote()?)
    }
}

fn collect(stream: UnixStream) -> Result<JoinHandle<Result<Vec<u8>, Error>>, Error> {
    thread::Builder::new()
        .name("collector".to_owned())
        .spawn(move || read_all(stream))
        .map_err(Error::Thread)
}

fn read_all(mut stream: UnixStream) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(Error::Stream)?;
    Ok(bytes)
}

/// How a command ended, as [`std::process::ExitStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(Exit);

impl ExitStatus {
    /// Whether it ended with status 0.
    #[must_use]
    pub const fn success(self) -> bool {
        matches!(self.0, Exit::Code(0))
    }

    /// Its status, unless a signal ended it.
    #[must_use]
    pub const fn code(self) -> Option<u8> {
        match self.0 {
            Exit::Code(code) => Some(code),
            Exit::Signal(_) => None,
        }
    }

    /// What a shell makes of it: its status, or 128 and the signal's number.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self.0 {
            Exit::Code(code) => code,
            Exit::Signal(number) => u8::try_from(number)
                .ok()
                .and_then(|number| number.checked_add(128))
                .unwrap_or(u8::MAX),
        }
    }

    /// The Linux signal number that ended it, if one did.
    #[must_use]
    pub const fn signal(self) -> Option<i32> {
        match self.0 {
            Exit::Code(_) => None,
            Exit::Signal(number) => Some(number),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Exit::Code(code) => write!(f, "exit status: {code}"),
            Exit::Signal(number) => write!(f, "signal: {number}"),
        }
    }
}

/// What a command left, as [`std::process::Output`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output, if that was piped.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error, if that was piped.
    pub stderr: Vec<u8>,
}
