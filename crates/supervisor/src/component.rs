//! One process of a machine, from its launch to its end.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use handoff::Channel;
use jailer::{Group, Launch, Process};
use nix::fcntl::OFlag;
use policy::Policy;

use crate::{Device, Error, LastWords, Programs, plan::Program, tail::Tail};

/// How long a component has to say that it is ready. Generous: an overloaded host is slow, and a
/// component that is stuck costs nothing but this wait.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a message may take whose beginning is there. A component that begins one and does not
/// end it must not hold up the supervision of the others.
const MESSAGE_WITHIN: Duration = Duration::from_secs(1);

/// A running component.
pub(crate) struct Component {
    pub(crate) name: String,
    pub(crate) process: Process,
    pub(crate) channel: Channel,
    /// False when the component has closed its end.
    pub(crate) channel_open: bool,
    /// Set until the component has said that it is ready.
    pub(crate) due: Option<Instant>,
    /// The process has ended and been waited for.
    pub(crate) gone: bool,
    log: Option<File>,
    tail: Tail,
}

/// What a component is started with.
pub(crate) struct Start<'a> {
    pub(crate) name: &'a str,
    pub(crate) program: &'a Program,
    /// Encoded.
    pub(crate) config: Vec<u8>,
    pub(crate) resources: Vec<(String, BorrowedFd<'a>)>,
    /// Our end of the control channel and the component's.
    pub(crate) channel: (Channel, Channel),
}

impl Component {
    /// Starts a process in its jail and sends it its start message, without waiting for an answer.
    pub(crate) fn start(
        programs: &Programs,
        group: Option<&Group>,
        start: Start<'_>,
    ) -> Result<Self, Error> {
        let policy = start.program.policy()?;
        let program = programs.open(&start.program.file())?;
        let (log, log_end) = pipe().map_err(|source| Error::System {
            what: "make a pipe for a component's log",
            source,
        })?;
        let (ours, theirs) = start.channel;
        let launch = Launch {
            policy: start.program.launched_with(policy),
            program: program.as_fd(),
            title: &start.program.title(start.name),
            stderr: log_end.as_fd(),
            channel: theirs,
        };
        let spawned = match group {
            Some(group) => group
                .component(start.name, policy)
                .and_then(|leaf| leaf.spawn(launch)),
            None => jailer::spawn(launch),
        };
        let process = spawned.map_err(|source| Error::Spawn {
            name: start.name.to_owned(),
            source,
        })?;
        let mut resources = start.resources;
        // Somebody else's program does not say that it is ready.
        let mut due = Instant::now().checked_add(READY_WITHIN);
        if let Program::Foreign(foreign) = start.program {
            resources.push(foreign.resource());
            due = None;
        }
        handoff::start_encoded(&ours, start.config, &resources).map_err(|source| {
            Error::Channel {
                name: start.name.to_owned(),
                source,
            }
        })?;
        Ok(Self {
            name: start.name.to_owned(),
            process,
            channel: ours,
            channel_open: true,
            due,
            gone: false,
            log: Some(log),
            tail: Tail::default(),
        })
    }

    /// The log, while the component has it open.
    pub(crate) fn log(&self) -> Option<BorrowedFd<'_>> {
        self.log.as_ref().map(AsFd::as_fd)
    }

    /// Takes what the component has written.
    pub(crate) fn read_log(&mut self) {
        if let Some(log) = &self.log
            && !self.tail.fill(log)
        {
            self.log = None;
        }
    }

    /// Takes the component's answer to the start message, which has arrived.
    pub(crate) fn read_ready(&mut self) -> Result<(), Error> {
        self.ready_within(MESSAGE_WITHIN)
    }

    /// Waits for the component's answer to the start message.
    pub(crate) fn await_ready(&mut self) -> Result<(), Error> {
        self.ready_within(READY_WITHIN)
    }

    fn ready_within(&mut self, limit: Duration) -> Result<(), Error> {
        self.due = None;
        let answer = handoff::await_ready(&self.channel, limit)
            .and_then(|()| self.channel.set_timeout(Some(MESSAGE_WITHIN)));
        answer.map_err(|source| {
            let name = self.name.clone();
            let log = self.last_words();
            Error::Refused { name, log, source }
        })
    }

    /// That the component is not ready although it should be.
    pub(crate) fn silent(&mut self) -> Error {
        Error::Silent {
            name: self.name.clone(),
            limit: READY_WITHIN,
            log: self.last_words(),
        }
    }

    /// Our end of its channel once more.
    pub(crate) fn copy_channel(&self) -> Result<Channel, Error> {
        let copy = self.channel.try_clone();
        copy.map_err(|source| Error::Channel {
            name: self.name.clone(),
            source,
        })
    }

    /// That the process cannot be waited for.
    pub(crate) fn spawn_error(&self, source: jailer::Error) -> Error {
        Error::Spawn {
            name: self.name.clone(),
            source,
        }
    }

    /// That the component ended.
    pub(crate) fn died(&mut self, exit: &jailer::Exit) -> Error {
        Error::Died {
            name: self.name.clone(),
            exit: exit.to_string(),
            log: self.last_words(),
        }
    }

    /// The end of the log as it is now.
    pub(crate) fn last_words(&mut self) -> LastWords {
        self.read_log();
        LastWords(self.tail.text())
    }
}

impl Program {
    /// What it may do.
    pub(crate) fn policy(&self) -> Result<&'static Policy, Error> {
        match self {
            Self::Component(name) => {
                policy::component(name).ok_or_else(|| Error::Policy((*name).to_owned()))
            }
            Self::Foreign(foreign) => Ok(foreign.policy()),
        }
    }

    /// What the process is spawned with.
    const fn launched_with(&self, policy: &'static Policy) -> &'static Policy {
        match self {
            Self::Component(_) => policy,
            Self::Foreign(foreign) => foreign.unlimited(),
        }
    }

    /// Its file, among ours.
    fn file(&self) -> String {
        match self {
            Self::Component(name) => format!("crumble-{name}"),
            Self::Foreign(_) => foreign::PROGRAM.to_owned(),
        }
    }

    /// What `ps` shows of the one that people call `name`, until a program of somebody else's is executed.
    fn title(&self, name: &str) -> String {
        match self {
            Self::Component(component) => format!("crumble-{component}: {name}"),
            Self::Foreign(_) => format!("{}{name}", foreign::TITLE),
        }
    }

    /// What it calls the socket that its front end connects to.
    pub(crate) fn listener(&self) -> &'static str {
        match self {
            Self::Component(_) => "vhost-user",
            Self::Foreign(_) => Device::LISTENER,
        }
    }
}

/// A pipe whose reading end, the first, does not block.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&reader, nix::fcntl::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader.into(), writer))
}
