//! The supervising thread: it waits for what the processes of a machine do, until the machine ends.

use std::{
    io::{PipeReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use handoff::Channel;
use jailer::Group;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wire::{
    agent::{READY_PORT, Ready},
    net::DialerRequest,
    vmm::{End, Event},
};

use crate::{
    Error, Plan, Programs,
    component::Component,
    console::Console,
    launch::{Launched, launch, named},
    machine::{self, Shared, State, system},
    streams::Streams,
    unit::Unit,
};

/// When a component ends, the reason may be on its way from another: a device ends when the VMM
/// has, and the VMM reports a device that is gone. This long we wait for the better explanation.
const GRACE: Duration = Duration::from_millis(300);

/// The same after a device that ended of its own accord: it does that when the VMM lets go of it, which
/// on a busy host may be long before the VMM has ended and said why.
const VMM_GRACE: Duration = Duration::from_secs(5);

/// How long the guest's agent has to say what it began to say.
const READY_MESSAGE_WITHIN: Duration = Duration::from_secs(5);

/// How often the host's name servers are looked at. They change when somebody moves to another
/// network, and a guest's resolver tries for longer than this.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Runs a machine from its launch to its end. When this returns no process of it is left.
pub(crate) fn supervise(
    mut plan: Plan,
    vmm: (Channel, Channel),
    leash: &UnixStream,
    shared: &Arc<Shared>,
    streams: &Arc<Streams>,
) -> Result<End, Error> {
    let started = Instant::now();
    let launched = launch(&mut plan, vmm, streams)?;
    shared.update(|state| state.timings.spawned = Some(started.elapsed()));
    let programs = plan.programs.clone();
    let (mut family, console) = Family::new(launched, programs, started, shared, streams);
    family.tell_processes();
    let console = Console::start(console, plan.console.take(), Arc::clone(shared))
        .map_err(system("start a thread for the console"))?;
    let end = family.watch(leash);
    // Nobody writes to the console any more.
    drop(family);
    console.finish();
    end
}

/// The processes of a machine. The VMM is the first component.
pub(crate) struct Family {
    pub(crate) components: Vec<Component>,
    pub(crate) units: Vec<Unit>,
    pub(crate) programs: Programs,
    /// When to look at the host's name servers again, if there is a dialer.
    look_at: Option<Instant>,
    /// Goes after the processes in it.
    pub(crate) group: Option<Group>,
    pub(crate) vsock: Option<usize>,
    /// What will have ended the machine if nothing better is known by then.
    suspicion: Option<Suspicion>,
    /// The agent's announcement is there or being read; there is one.
    announced: bool,
    started: Instant,
    /// When the VMM was spawned; its own times count from there.
    vmm_started: Instant,
    shared: Arc<Shared>,
    pub(crate) streams: Arc<Streams>,
}

/// Why the machine may have to end.
struct Suspicion {
    /// When it becomes a verdict.
    at: Instant,
    error: Error,
    /// Whether it can be the cause, or only follow from something else.
    cause: bool,
}

impl Family {
    const VMM: usize = 0;

    fn new(
        launched: Launched,
        programs: Programs,
        started: Instant,
        shared: &Arc<Shared>,
        streams: &Arc<Streams>,
    ) -> (Self, PipeReader) {
        let dialed = |unit: &Unit| unit.device.dialer.is_some();
        let look_at = launched.units.iter().any(dialed).then(look_at).flatten();
        let family = Self {
            components: launched.components,
            units: launched.units,
            look_at,
            programs,
            group: launched.group,
            vsock: launched.vsock,
            suspicion: None,
            announced: false,
            started,
            vmm_started: launched.vmm_started,
            shared: Arc::clone(shared),
            streams: Arc::clone(streams),
        };
        (family, launched.console)
    }

    /// Tells the owner which processes there are.
    pub(crate) fn tell_processes(&self) {
        let info = |(index, component): (usize, &Component)| machine::Running {
            name: component.name.clone(),
            pid: component.process.pid(),
            replaceable: self.is_replaceable(index),
            predecessors: self.predecessors(index),
        };
        let processes = self.components.iter().enumerate().map(info).collect();
        self.shared.update(|state| state.processes = processes);
    }

    /// Serves the machine until it ends.
    fn watch(&mut self, leash: &UnixStream) -> Result<End, Error> {
        loop {
            let woken = self.poll(leash)?;
            if woken.leash && !self.told(leash) {
                return Ok(End::Killed);
            }
            for index in woken.logs {
                if let Some(component) = self.components.get_mut(index) {
                    component.read_log();
                }
            }
            for index in woken.channels {
                if let Some(end) = self.receive(index)? {
                    return end_or_error(end);
                }
            }
            for index in woken.exits {
                if let Some(end) = self.exited(index)? {
                    return end_or_error(end);
                }
            }
            self.check_deadlines()?;
            self.kill_lost();
            self.look_at_nameservers();
        }
    }

    /// Does what the machine's owner has said; false if the machine is to end.
    fn told(&self, mut leash: &UnixStream) -> bool {
        let mut word = [0];
        let Some(vmm) = self.components.get(Self::VMM) else {
            return false;
        };
        // It has ended if it takes no signal, and that is told otherwise.
        match (leash.read(&mut word), word) {
            (Ok(1), [machine::PAUSE]) => vmm.process.stop().is_ok(),
            (Ok(1), [machine::RESUME]) => vmm.process.resume().is_ok(),
            (Ok(1), [machine::REPLACE]) => {
                let number = leash.read(&mut word).map(|_| usize::from(word[0]));
                let device = number.ok().and_then(|number| self.components.get(number));
                if let Some(device) = device {
                    // Its end is seen as any other.
                    let _ = device.process.kill();
                }
                true
            }
            _ => false,
        }
    }

    /// Waits until something happens or is due.
    fn poll(&self, leash: &UnixStream) -> Result<Woken, Error> {
        let mut sources = vec![(Source::Leash, leash.as_fd())];
        for (index, component) in self.components.iter().enumerate() {
            if component.gone {
                continue;
            }
            sources.push((Source::Exit(index), component.process.pidfd()));
            if component.channel_open {
                sources.push((Source::Channel(index), component.channel.as_fd()));
            }
            if let Some(log) = component.log() {
                sources.push((Source::Log(index), log));
            }
        }
        let fds = sources
            .iter()
            .map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN));
        let mut fds: Vec<_> = fds.collect();
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(system("wait for the machine")(errno.into())),
        }
        let mut woken = Woken::default();
        for ((source, _), fd) in sources.iter().zip(&fds) {
            if fd.any().unwrap_or(false) {
                woken.note(*source);
            }
        }
        Ok(woken)
    }

    /// Until the next deadline.
    fn timeout(&self) -> PollTimeout {
        let due = self.components.iter().filter_map(|component| component.due);
        let losses = self.units.iter().filter_map(|unit| unit.loss.as_ref());
        let next = due
            .chain(self.suspicion.as_ref().map(|suspicion| suspicion.at))
            .chain(self.look_at)
            .chain(losses.filter_map(|loss| loss.kill_at))
            .min();
        next.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now());
            // A millisecond more, so that the deadline has passed when poll returns.
            let left = left.saturating_add(Duration::from_millis(1));
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        })
    }

    /// Takes one message of a component.
    fn receive(&mut self, index: usize) -> Result<Option<End>, Error> {
        let vsock = self.vsock;
        let successor = self.is_successor(index);
        let Some(component) = self.components.get_mut(index) else {
            return Ok(None);
        };
        if component.due.is_some() {
            let ready = component.read_ready();
            if ready.is_err() && successor {
                component.channel_open = false;
                // It is refused for a process that has ended.
                let _ = component.process.kill();
                return Ok(None);
            }
            return ready.map(|()| None);
        }
        if index == Self::VMM {
            self.receive_vmm()
        } else if vsock == Some(index) {
            self.receive_vsock(index).map(|()| None)
        } else {
            // No other device has anything to say, so this is its end of the channel closing.
            component.channel_open = false;
            Ok(None)
        }
    }

    fn receive_vmm(&mut self) -> Result<Option<End>, Error> {
        let Some(vmm) = self.components.first_mut() else {
            return Ok(None);
        };
        let received = vmm.channel.receive::<Event>();
        let Some((event, _)) = received.map_err(|source| named(&vmm.name, source))? else {
            vmm.channel_open = false;
            return Ok(None);
        };
        match event {
            Event::Started {
                loaded_at,
                entered_at,
            } => self.note_entry(loaded_at, entered_at),
            Event::Stats(stats) => self.shared.update(|state| state.stats = Some(stats)),
            Event::DeviceLost { name, life, reason } => self.device_lost(&name, life, reason),
            Event::DeviceFailed { name, reason } => self.device_failed(name, reason),
            Event::Ended(end) => {
                let elapsed = self.started.elapsed();
                self.shared
                    .update(|state| state.timings.ended = Some(elapsed));
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn note_entry(&mut self, loaded_at: u64, entered_at: u64) {
        let base = self.vmm_started.saturating_duration_since(self.started);
        let since = |micros| base.saturating_add(Duration::from_micros(micros));
        self.shared.update(|state| {
            state.timings.loaded = Some(since(loaded_at));
            state.timings.entered = Some(since(entered_at));
        });
    }

    /// The VMM gave up a device; most likely its process has just ended and says more.
    fn device_failed(&mut self, name: String, reason: String) {
        let device = self.components.iter_mut().find(|c| c.name == name);
        let log = device.map(Component::last_words).unwrap_or_default();
        self.suspect(Error::DeviceFailed { name, reason, log }, false, GRACE);
    }

    fn receive_vsock(&mut self, index: usize) -> Result<(), Error> {
        let Some(vsock) = self.components.get_mut(index) else {
            return Ok(());
        };
        let (stream, fds) = match vsock.channel.receive::<wire::vsock::Event>() {
            Ok(Some((wire::vsock::Event::Accepted(stream), fds))) => (stream, fds),
            Ok(None) => {
                vsock.channel_open = false;
                return Ok(());
            }
            // It is dying, or talks nonsense and is to.
            Err(_) => {
                vsock.channel_open = false;
                let _ = vsock.process.kill();
                return Ok(());
            }
        };
        let Ok([theirs, ours]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Ok(());
        };
        self.streams.keep(stream, ours);
        if stream.port == READY_PORT && !self.announced {
            self.announced = true;
            self.await_agent(UnixStream::from(theirs));
        }
        Ok(())
    }

    /// Reads the agent's announcement beside everything else: the guest may take its time over it.
    fn await_agent(&self, stream: UnixStream) {
        let shared = Arc::clone(&self.shared);
        let started = self.started;
        // Without the thread the announcement is never read, and the wait for it times out.
        let _ = thread::Builder::new()
            .name("announcement".to_owned())
            .spawn(move || {
                let _ = stream.set_read_timeout(Some(READY_MESSAGE_WITHIN));
                if let Ok(Some(ready)) = wire::frame::read::<Ready>(stream) {
                    shared.update(|state| note_ready(state, ready, started.elapsed()));
                }
            });
    }

    /// A component ended. The VMM's end is the machine's. A device's is, unless another can take its
    /// place, or something explains it soon.
    fn exited(&mut self, index: usize) -> Result<Option<End>, Error> {
        let Some(component) = self.components.get_mut(index) else {
            return Ok(None);
        };
        let exit = component.process.try_wait();
        let Some(exit) = exit.map_err(|source| component.spawn_error(source))? else {
            return Ok(None);
        };
        component.gone = true;
        component.due = None;
        let error = component.died(&exit);
        if index == Self::VMM {
            return self.last_of_vmm()?.map(Some).ok_or(error);
        }
        let error = self.loss_of(index).unwrap_or(error);
        if self.replace(index)? {
            return Ok(None);
        }
        // One that ended with 0 did so because another one had, and explains nothing.
        match exit {
            jailer::Exit::Code(0) => self.suspect(error, false, VMM_GRACE),
            _ => self.suspect(error, true, GRACE),
        }
        Ok(None)
    }

    /// What a VMM that is gone still said about its end.
    fn last_of_vmm(&mut self) -> Result<Option<End>, Error> {
        while self.components.first().is_some_and(|vmm| vmm.channel_open) {
            if let Some(end) = self.receive(Self::VMM)? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Ends the machine with `error` after `grace`, unless it ends otherwise before, or an earlier
    /// suspicion stands. A `cause` takes the place of what is a mere consequence.
    fn suspect(&mut self, error: Error, cause: bool, grace: Duration) {
        let Some(at) = Instant::now().checked_add(grace) else {
            return;
        };
        let stands = |known: &Suspicion| known.cause || (!cause && known.at <= at);
        if !self.suspicion.as_ref().is_some_and(stands) {
            self.suspicion = Some(Suspicion { at, error, cause });
        }
    }

    /// Tells dialers of name servers that have changed.
    fn look_at_nameservers(&mut self) {
        if self.look_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.look_at = look_at();
        for (dialer, index) in self.units.iter_mut().filter_map(Unit::dialer) {
            let component = self.components.get(index);
            let Some(component) = component.filter(|c| !c.gone && c.due.is_none()) else {
                continue;
            };
            if let Some(changed) = (dialer.nameservers)() {
                dialer.config.nameservers.clone_from(&changed);
                // One that does not listen is gone, or about to be.
                let request = DialerRequest::Nameservers(changed);
                let _ = component.channel.send(&request, &[]);
            }
        }
    }

    fn check_deadlines(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let due = |suspicion: &mut Suspicion| suspicion.at <= now;
        if let Some(suspicion) = self.suspicion.take_if(due) {
            return Err(suspicion.error);
        }
        let late = |component: &&mut Component| component.due.is_some_and(|due| due <= now);
        match self.components.iter_mut().find(late) {
            Some(component) => Err(component.silent()),
            None => Ok(()),
        }
    }
}

fn look_at() -> Option<Instant> {
    Instant::now().checked_add(LOOK_EVERY)
}

fn end_or_error(end: End) -> Result<End, Error> {
    match end {
        End::Failed(reason) => Err(Error::Vmm(reason)),
        end => Ok(end),
    }
}

fn note_ready(state: &mut State, ready: Ready, elapsed: Duration) {
    state.timings.ready = Some(elapsed);
    let guest = ready.ready_at.saturating_sub(ready.init_at);
    state.timings.init = Some(elapsed.saturating_sub(Duration::from_micros(guest)));
    state.ready = Some(ready);
}

/// Whose file descriptor woke us.
#[derive(Clone, Copy)]
enum Source {
    Leash,
    Exit(usize),
    Channel(usize),
    Log(usize),
}

/// What there is to do, by the index of the component.
#[derive(Default)]
struct Woken {
    leash: bool,
    exits: Vec<usize>,
    channels: Vec<usize>,
    logs: Vec<usize>,
}

impl Woken {
    fn note(&mut self, source: Source) {
        match source {
            Source::Leash => self.leash = true,
            Source::Exit(index) => self.exits.push(index),
            Source::Channel(index) => self.channels.push(index),
            Source::Log(index) => self.logs.push(index),
        }
    }
}
