//! The process that has a machine: starts it, starts it anew, and notes how it ended.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    process,
    str::FromStr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use crumble::{Child, Command, Machine, Remote, Stdio, Terminal, image::Config};

use crate::{
    Directory, Ended, Error, State, Status, Stream,
    log::{self, Rotating},
    server,
};

/// The exit code of a machine that was killed: SIGKILL's.
const KILLED: u8 = 128 + 9;

/// What there is between two starts at first, and at most. It doubles with each, and begins anew when a
/// machine has run for longer than the most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// So many pieces of output may wait for whoever is attached.
const WATCHED: usize = 256;

/// How to make the machine, and what to run in it.
pub trait Work {
    /// Starts it. Its guest's console goes to `console`.
    ///
    /// # Errors
    /// Why it did not start.
    fn start(&mut self, console: Box<dyn Write + Send>) -> Result<Machine, crumble::Error>;

    /// What runs in it, and ends it; none if it ends by itself.
    fn command<'m>(&self, machine: &'m Machine) -> Option<Command<'m>>;

    /// The environment of other commands in it.
    fn config(&self, machine: &Machine) -> Config;
}

/// Whether a machine that has ended is started anew. One that was stopped is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restart {
    /// It is not.
    #[default]
    No,
    /// If its command failed, or the machine did.
    OnFailure,
    /// However it ended.
    Always,
}

impl FromStr for Restart {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "no" => Ok(Self::No),
            "on-failure" => Ok(Self::OnFailure),
            "always" => Ok(Self::Always),
            _ => Err("write no, on-failure or always"),
        }
    }
}

/// Keeps a machine until it has ended and is not to be started anew. `started` is called when it runs
/// for the first time, before which errors are for whoever waits for that.
///
/// # Errors
/// If another process keeps it, or it never ran; its directory says so then as well.
pub fn keep(
    directory: &Directory,
    work: &mut impl Work,
    restart: Restart,
    started: impl FnOnce(),
) -> Result<Ended, Error> {
    // Until the process ends.
    let lock = directory.lock()?;
    directory.forget_end()?;
    let shared = Arc::new(Shared::new(directory)?);
    let connections = server::serve(&shared)?;
    let ended = shared.keep(work, restart, started);
    let note = match &ended {
        Ok(ended) => ended.clone(),
        Err(error) => Ended::now(code_of(error), Some(describe(error))),
    };
    shared.end(note)?;
    connections.drain();
    drop(lock);
    ended
}

/// What keeper and server share.
pub(crate) struct Shared {
    pub(crate) directory: Directory,
    image: String,
    started: SystemTime,
    inner: Mutex<Inner>,
    changed: Condvar,
    watchers: Mutex<Vec<SyncSender<Arc<[u8]>>>>,
}

#[derive(Default)]
struct Inner {
    running: Option<Running>,
    is_stopping: bool,
    is_killed: bool,
    is_paused: bool,
    restarts: u32,
    ended: Option<Ended>,
}

/// A machine that runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) machine: Arc<Machine>,
    pub(crate) config: Config,
    /// None if it runs no command of ours.
    pub(crate) command: Option<Arc<Remote>>,
    /// None if nobody reads anything of anybody's.
    pub(crate) input: Option<Arc<Input>>,
    pub(crate) has_terminal: bool,
}

/// Where what is typed goes.
pub(crate) enum Input {
    /// A command's standard input, or its terminal.
    Command(UnixStream),
    /// The guest's own terminal.
    Guest(Terminal),
}

impl Input {
    /// Passes everything on.
    pub(crate) fn take(&self, from: &mut impl Read) -> io::Result<u64> {
        match self {
            Self::Command(stream) => io::copy(from, &mut &*stream),
            Self::Guest(terminal) => io::copy(from, &mut terminal.try_clone()?),
        }
    }
}

impl Running {
    /// A stream to its agent.
    pub(crate) fn agent(&self) -> io::Result<UnixStream> {
        self.machine.agent_stream()
    }
}

impl Ended {
    fn now(code: u8, reason: Option<String>) -> Self {
        Self {
            code,
            reason,
            at: SystemTime::now(),
        }
    }
}

impl Shared {
    fn new(directory: &Directory) -> Result<Self, Error> {
        Ok(Self {
            directory: directory.clone(),
            image: directory.description()?.image,
            started: SystemTime::now(),
            inner: Mutex::default(),
            changed: Condvar::new(),
            watchers: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// What the command writes from now on, as lines of a log. It ends for who is too slow.
    pub(crate) fn watch(&self) -> Receiver<Arc<[u8]>> {
        let (sender, receiver) = sync_channel(WATCHED);
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.push(sender);
        receiver
    }

    fn show(&self, lines: &[u8]) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if !watchers.is_empty() {
            let lines: Arc<[u8]> = lines.into();
            watchers.retain(|watcher| watcher.try_send(Arc::clone(&lines)).is_ok());
        }
    }

    /// The machine, if it runs.
    pub(crate) fn running(&self) -> Option<Running> {
        self.lock().running.clone()
    }

    pub(crate) fn state(&self) -> State {
        let inner = self.lock();
        let running = inner.running.as_ref();
        State {
            name: self.directory.name().to_string(),
            image: self.image.clone(),
            status: match running {
                _ if inner.is_stopping => Status::Stopping,
                Some(_) if inner.is_paused => Status::Paused,
                Some(_) => Status::Running,
                None => Status::Starting,
            },
            keeper: process::id(),
            started: self.started,
            restarts: inner.restarts,
            published: running.map_or_else(Vec::new, |running| {
                let ports = running.machine.published().iter();
                ports.map(ToString::to_string).collect()
            }),
            processes: running.map_or_else(Vec::new, |running| running.machine.processes()),
            terminal: running.is_some_and(|running| running.has_terminal),
            config: running.map_or_else(Config::default, |running| running.config.clone()),
        }
    }

    /// Waits until the machine has ended for good, at most so long.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> Option<Ended> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut inner = self.lock();
        while inner.ended.is_none() {
            inner = match deadline {
                None => (self.changed.wait(inner)).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    let waited = self.changed.wait_timeout(inner, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        inner.ended.clone()
    }

    /// Notes that it is not to be started anew.
    pub(crate) fn stopping(&self) {
        self.update(|inner| inner.is_stopping = true);
    }

    /// Lets a machine's vCPUs run, or not.
    pub(crate) fn pause(&self, machine: &Machine, pause: bool) -> Result<(), crumble::Error> {
        match pause {
            true => machine.pause()?,
            false => machine.resume()?,
        }
        self.update(|inner| inner.is_paused = pause);
        Ok(())
    }

    /// Ends a machine as if its power failed.
    pub(crate) fn kill(&self, machine: &Machine) {
        self.update(|inner| (inner.is_stopping, inner.is_killed) = (true, true));
        machine.kill();
    }

    /// Ends this process, and with it a machine that is being started.
    pub(crate) fn abandon(&self) -> ! {
        let ended = Ended::now(KILLED, Some("it was ended while it was started".to_owned()));
        // There is nobody to tell, and without it the machine has no end, as if it was killed.
        let _ = self.directory.end(&ended);
        process::exit(KILLED.into());
    }

    fn end(&self, ended: Ended) -> Result<(), Error> {
        self.directory.end(&ended)?;
        self.update(|inner| inner.ended = Some(ended));
        Ok(())
    }

    fn keep(
        self: &Arc<Self>,
        work: &mut impl Work,
        restart: Restart,
        started: impl FnOnce(),
    ) -> Result<Ended, Error> {
        let mut started = Some(started);
        let mut pause = PAUSE;
        loop {
            let began = Instant::now();
            let ended = match self.live(work, &mut started) {
                Err(error) if started.is_some() => return Err(error),
                Err(_) if self.lock().is_killed => Ended::now(KILLED, None),
                Err(error) => Ended::now(code_of(&error), Some(describe(&error))),
                Ok(code) => Ended::now(code, None),
            };
            let again = match restart {
                Restart::No => false,
                Restart::OnFailure => ended.code != 0,
                Restart::Always => true,
            };
            if began.elapsed() > LONGEST_PAUSE {
                pause = PAUSE;
            }
            if !again || self.is_stopping_within(pause) {
                return Ok(ended);
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            self.update(|inner| inner.restarts = inner.restarts.saturating_add(1));
        }
    }

    fn is_stopping_within(&self, pause: Duration) -> bool {
        let waited = (self.changed).wait_timeout_while(self.lock(), pause, |i| !i.is_stopping);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.is_stopping
    }

    /// One life of the machine, from its start to its end: its command's exit code.
    fn live(
        self: &Arc<Self>,
        work: &mut impl Work,
        started: &mut Option<impl FnOnce()>,
    ) -> Result<u8, Error> {
        let console = Rotating::open(&self.directory.console());
        let console = console.map_err(crate::file("open", &self.directory.console()))?;
        let machine = Arc::new(work.start(Box::new(console))?);
        let command = work.command(&machine);
        let child = command.map(|mut command| {
            command.stdout(Stdio::Piped).stderr(Stdio::Piped);
            command.spawn()
        });
        let child = child.transpose()?;
        let remote = child.as_ref().map(Child::remote).transpose()?;
        let input = match &child {
            Some(child) => input_of(child),
            None => machine.terminal().map(|found| found.map(Input::Guest)),
        };
        let input = input.map_err(crumble::Error::Stream)?;
        let running = Running {
            config: work.config(&machine),
            command: remote.map(Arc::new),
            has_terminal: match &child {
                Some(child) => child.terminal.is_some(),
                None => input.is_some(),
            },
            input: input.map(Arc::new),
            machine: Arc::clone(&machine),
        };
        self.update(|inner| inner.running = Some(running));
        if let Some(started) = started.take() {
            started();
        }
        let code = match child {
            Some(child) => self.attend(child, &machine),
            None => self.look_after(&machine),
        };
        self.update(|inner| (inner.running, inner.is_paused) = (None, false));
        code
    }

    /// Waits for a command, and ends its machine.
    fn attend(self: &Arc<Self>, mut child: Child, machine: &Machine) -> Result<u8, Error> {
        let terminal = child.terminal.take().or_else(|| child.stdout.take());
        let streams = [
            (Stream::Stdout, terminal),
            (Stream::Stderr, child.stderr.take()),
        ];
        let streams = streams.into_iter();
        let copiers = self.copy(streams.filter_map(|(stream, from)| Some((stream, from?))))?;
        // To wait for a child closes its input.
        let _stdin = child.stdin.take();
        let status = child.wait()?;
        join(copiers);
        if machine.try_wait()?.is_none() {
            machine.shutdown()?;
        }
        Ok(status.exit_code())
    }

    /// Waits for a machine without a command of ours.
    fn look_after(self: &Arc<Self>, machine: &Machine) -> Result<u8, Error> {
        let terminal = machine.terminal().map_err(crumble::Error::Stream)?;
        let copiers = self.copy(terminal.map(|terminal| (Stream::Stdout, terminal)))?;
        machine.wait()?;
        join(copiers);
        Ok(0)
    }

    /// Notes in the log what is written there, each on a thread.
    fn copy(
        self: &Arc<Self>,
        streams: impl IntoIterator<Item = (Stream, impl Read + Send + 'static)>,
    ) -> Result<Vec<JoinHandle<()>>, Error> {
        let path = self.directory.log();
        let log = Rotating::open(&path).map_err(crate::file("open", &path))?;
        let log = Arc::new(Mutex::new(log));
        let copy = |(stream, source)| {
            let (log, shared) = (Arc::clone(&log), Arc::clone(self));
            let body = move || shared.take_down(stream, source, &log);
            thread::Builder::new().name("log".to_owned()).spawn(body)
        };
        let copiers: io::Result<_> = streams.into_iter().map(copy).collect();
        copiers.map_err(|source| Error::System {
            what: "start a thread",
            source,
        })
    }

    /// A log that cannot be written, on a disk that is full, costs what was not written and nothing
    /// else.
    fn take_down(&self, stream: Stream, mut source: impl Read, log: &Mutex<Rotating>) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = match source.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => return,
                Ok(length) => length,
            };
            let bytes = buffer.get(..length).unwrap_or_default();
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let lines = log::lines(stream, SystemTime::now(), bytes);
            let _ = log.write_all(&lines);
            self.show(&lines);
        }
    }
}

/// Waits until everything is noted.
fn join(copiers: Vec<JoinHandle<()>>) {
    for copier in copiers {
        // One that panicked has said so.
        let _ = copier.join();
    }
}

/// Where a command reads what is typed.
fn input_of(child: &Child) -> io::Result<Option<Input>> {
    let stream = child.terminal.as_ref().or(child.stdin.as_ref());
    let stream = stream.map(UnixStream::try_clone).transpose()?;
    Ok(stream.map(Input::Command))
}

fn code_of(error: &Error) -> u8 {
    match error {
        Error::Machine(error) => error.exit_code(),
        _ => crumble::Error::FAILED,
    }
}

/// An error with its causes.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_is_said_in_words() {
        assert_eq!("on-failure".parse(), Ok(Restart::OnFailure));
        assert_eq!("always".parse(), Ok(Restart::Always));
        assert!("sometimes".parse::<Restart>().is_err());
    }
}
