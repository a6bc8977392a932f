//! A running machine, as its owner holds it.

use std::{
    fmt,
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use handoff::Channel;
use serde::{Deserialize, Serialize};
use wire::{
    agent::Ready,
    vmm::{End, Request, Stats},
};

use crate::{Error, LastWords, Plan, launch, memory, streams::Streams, watch};

/// When a machine reached which point, since [`Machine::start`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Every process was spawned.
    pub spawned: Option<Duration>,
    /// The kernel was in guest memory.
    pub loaded: Option<Duration>,
    /// The first vCPU entered the guest.
    pub entered: Option<Duration>,
    /// The guest's init began.
    pub init: Option<Duration>,
    /// The agent answered.
    pub ready: Option<Duration>,
    /// The VMM reported the machine's end.
    pub ended: Option<Duration>,
}

/// How long the VMM has for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What the owner tells the supervising thread.
pub(crate) const PAUSE: u8 = b'p';
pub(crate) const RESUME: u8 = b'r';
/// Followed by the number of a process.
pub(crate) const REPLACE: u8 = b'd';

/// How long another process has to take a device's place.
const REPLACED_WITHIN: Duration = Duration::from_secs(10);

/// One process of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// What it is: `vmm`, `vsock`, `fs-root`.
    pub name: String,
    /// Its process id on the host.
    pub pid: i32,
    /// Its anonymous memory in bytes, without the guest's; none if it has just ended.
    pub private_bytes: Option<u64>,
    /// How many had its place before it.
    pub predecessors: u32,
}

/// A machine. Dropping it ends all of its processes.
pub struct Machine {
    shared: Arc<Shared>,
    vmm: Channel,
    /// None without a vsock device.
    streams: Option<Arc<Streams>>,
    /// The supervising thread holds the other end: [`PAUSE`] and [`RESUME`] are what it is told, and
    /// shutting this one down tells it to end the machine.
    leash: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

/// What the supervising thread tells the owner.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) timings: Timings,
    pub(crate) processes: Vec<Running>,
    pub(crate) ready: Option<Ready>,
    pub(crate) stats: Option<Stats>,
    pub(crate) end: Option<Result<End, Arc<Error>>>,
    /// The end of the guest's serial output.
    pub(crate) console: String,
}

/// One of a machine's processes.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) pid: i32,
    /// It is a device's, and another may take its place.
    pub(crate) replaceable: bool,
    pub(crate) predecessors: u32,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes who waits for it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `pick` finds something, at most until `deadline`.
    fn wait<T>(
        &self,
        deadline: Option<Instant>,
        mut pick: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(found) = pick(&mut state) {
                return Some(found);
            }
            state = match deadline {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Machine {
    /// Starts the processes of a machine and returns at once; [`Machine::wait_ready`] tells how
    /// that went.
    ///
    /// # Errors
    /// If not even the supervising thread could be started.
    pub fn start(plan: Plan) -> Result<Self, Error> {
        let channels = launch::pair("vmm")?;
        let (leash, held) = UnixStream::pair().map_err(system("make a socket pair"))?;
        let shared = Arc::new(Shared::default());
        let vmm = channels.0.try_clone();
        let vmm = vmm.map_err(|source| launch::named("vmm", source))?;
        let streams = Arc::new(Streams::default());
        let has_vsock = plan.vsock.is_some();
        let thread = thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                let streams = Arc::clone(&streams);
                move || {
                    let end = watch::supervise(plan, channels, &held, &shared, &streams);
                    streams.close();
                    shared.update(|state| state.end = Some(end.map_err(Arc::new)));
                }
            })
            .map_err(system("start a thread"))?;
        Ok(Self {
            shared,
            vmm,
            streams: has_vsock.then_some(streams),
            leash,
            thread: Some(thread),
        })
    }

    /// Waits until the agent serves.
    ///
    /// # Errors
    /// The reason why it never will, or [`Error::NotUp`] after `limit`.
    pub fn wait_ready(&self, limit: Duration) -> Result<(), Arc<Error>> {
        let deadline = Instant::now().checked_add(limit);
        let found = self
            .shared
            .wait(deadline, |state| match (&state.end, &state.ready) {
                (Some(Err(error)), _) => Some(Err(Arc::clone(error))),
                (_, Some(ready)) => {
                    Some(ready.setup.clone().map_err(|e| Arc::new(Error::Setup(e))))
                }
                (Some(Ok(end)), None) => Some(Err(Arc::new(Error::EndedEarly {
                    end: end.to_string(),
                    console: LastWords(state.console.clone()),
                }))),
                (None, None) => None,
            });
        found.unwrap_or_else(|| {
            let console = LastWords(self.shared.lock().console.clone());
            Err(Arc::new(Error::NotUp { limit, console }))
        })
    }

    /// A new stream to `port` of the guest. It may be written at once; if the guest refuses it,
    /// it ends.
    ///
    /// # Errors
    /// [`Error::NoVsock`], or [`Error::Ended`] if the machine is gone.
    pub fn connect(&self, port: u32) -> Result<UnixStream, Error> {
        let streams = self.streams.as_ref().ok_or(Error::NoVsock)?;
        streams.connect(port)
    }

    /// The VMM's counters now.
    ///
    /// # Errors
    /// [`Error::Ended`] if the machine ends first, [`Error::NoAnswer`] if the VMM is stuck.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.shared.lock().stats = None;
        self.request(&Request::Stats)?;
        let deadline = Instant::now().checked_add(ANSWER_WITHIN);
        self.shared
            .wait(deadline, |state| match (&state.stats, &state.end) {
                (Some(stats), _) => Some(Ok(stats.clone())),
                (None, Some(_)) => Some(Err(Error::Ended)),
                (None, None) => None,
            })
            .unwrap_or(Err(Error::NoAnswer(ANSWER_WITHIN)))
    }

    /// The machine's processes, the VMM first.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessInfo> {
        let processes = self.shared.lock().processes.clone();
        processes
            .into_iter()
            .map(|process| ProcessInfo {
                name: process.name,
                pid: process.pid,
                private_bytes: memory::private_bytes(process.pid).ok(),
                predecessors: process.predecessors,
            })
            .collect()
    }

    /// How far the machine has come, and when.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.shared.lock().timings
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// [`Error::Channel`] if the VMM is gone.
    pub fn power_button(&self) -> Result<(), Error> {
        self.request(&Request::PowerButton)
    }

    /// Waits for the machine's end.
    ///
    /// # Errors
    /// Why it ended, if not by its guest.
    pub fn wait(&self) -> Result<End, Arc<Error>> {
        self.wait_until(None).unwrap_or(Ok(End::Killed))
    }

    /// Waits for the machine's end, at most `limit`; none if it still runs.
    #[must_use]
    pub fn wait_timeout(&self, limit: Duration) -> Option<Result<End, Arc<Error>>> {
        self.wait_until(Instant::now().checked_add(limit))
    }

    /// Ends the machine now, without asking the guest. [`Machine::wait`] returns when every process
    /// is gone.
    pub fn kill(&self) {
        // It fails only if the supervising thread has ended, and the machine with it.
        let _ = self.leash.shutdown(Shutdown::Both);
    }

    /// Lets no vCPU run until [`Machine::resume`]. Devices end what they were asked to do; nothing that
    /// takes the guest or the VMM is answered. Its clock goes on, which the guest sees as a leap.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub fn pause(&self) -> Result<(), Error> {
        self.tell(&[PAUSE])
    }

    /// Lets the vCPUs run again.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub fn resume(&self) -> Result<(), Error> {
        self.tell(&[RESUME])
    }

    /// Puts another process in the place of a device's, as if that had died: a program that was installed
    /// since is the one that goes on. Returns when it has begun.
    ///
    /// # Errors
    /// [`Error::NotReplaceable`], [`Error::NotReplaced`], or [`Error::Ended`].
    pub fn replace_device(&self, name: &str) -> Result<(), Error> {
        let processes = self.shared.lock().processes.clone();
        let mut found = processes.iter().zip(0..);
        let found = found.find(|(process, _)| process.name == name && process.replaceable);
        let Some((Running { pid, .. }, number)) = found else {
            let known = processes.iter().filter(|process| process.replaceable);
            let known: Vec<_> = known.map(|process| process.name.as_str()).collect();
            return Err(Error::NotReplaceable {
                name: name.to_owned(),
                known: known.join(", "),
            });
        };
        self.tell(&[REPLACE, number])?;
        let deadline = Instant::now().checked_add(REPLACED_WITHIN);
        let replaced = self.shared.wait(deadline, |state| {
            let now = state.processes.get(usize::from(number));
            match now {
                _ if state.end.is_some() => Some(Err(Error::Ended)),
                Some(now) if now.pid != *pid => Some(Ok(())),
                _ => None,
            }
        });
        replaced.unwrap_or_else(|| Err(Error::NotReplaced(name.to_owned())))
    }

    fn tell(&self, words: &[u8]) -> Result<(), Error> {
        let told = (&self.leash).write_all(words);
        told.map_err(|_| Error::Ended)
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Option<Result<End, Arc<Error>>> {
        self.shared.wait(deadline, |state| state.end.clone())
    }

    fn request(&self, request: &Request) -> Result<(), Error> {
        self.vmm
            .send(request, &[])
            .map_err(|source| launch::named("vmm", source))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so, and its processes ended with it.
            let _ = thread.join();
        }
    }
}

pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}
