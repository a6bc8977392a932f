//! The box's vsock device, launched as in production.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use handoff::Channel;
use jailer::{Launch, Process};
use wire::{
    agent::READY_PORT,
    vsock::{Config, Event, Request},
};

use crate::{
    build::VSOCK,
    error::{Error, Result, file},
    machine::Listening,
};

/// The name of its policy.
const COMPONENT: &str = "dev-vsock";

/// The box's context id. It meets no other machine on its device.
const CID: u64 = 3;

/// How long the device may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// The device's process; it ends with this value, and with the thread that started it.
#[derive(Debug)]
pub(crate) struct Vsock {
    process: Process,
    control: Channel,
}

impl Vsock {
    /// Starts the device behind `listening`.
    pub(crate) fn start(bin_dir: &Path, listening: &Listening) -> Result<Self> {
        let path = bin_dir.join(VSOCK);
        let program = File::open(&path).map_err(file("open", &path))?;
        let policy = policy::component(COMPONENT).ok_or(Error::Policy(COMPONENT))?;
        let (control, theirs) = Channel::pair()?;
        let process = jailer::spawn(Launch {
            policy,
            program: program.as_fd(),
            title: "crumble-dev-vsock: testbed",
            stderr: io::stderr().as_fd(),
            channel: theirs,
        })?;
        let config = Config {
            guest_cid: CID,
            accept_ports: vec![READY_PORT],
        };
        let resources = [("vhost-user".to_owned(), listening.listener.as_fd())];
        handoff::start(&control, &config, &resources)?;
        handoff::await_ready(&control, PATIENCE)?;
        Ok(Self { process, control })
    }

    /// The channel to watch: it is readable when the device is gone.
    pub(crate) const fn control(&self) -> &Channel {
        &self.control
    }

    /// Connects a stream to a port of the box.
    pub(crate) fn connect(&self, port: u32, stream: &OwnedFd) -> Result<()> {
        Ok(self
            .control
            .send(&Request::Connect { port }, &[stream.as_fd()])?)
    }

    /// Waits until the box connects to one of the host's ports.
    pub(crate) fn accept(&self, limit: Duration) -> Result<(u32, UnixStream)> {
        self.control.set_timeout(Some(limit))?;
        let message = self.control.receive::<Event>();
        self.control.set_timeout(None)?;
        let gone = || Error::Ended {
            program: VSOCK.to_owned(),
            status: "before the box was up".to_owned(),
        };
        let (Event::Accepted { port }, fds) = message?.ok_or_else(gone)?;
        let stream = fds.into_iter().next().ok_or_else(gone)?;
        Ok((port, UnixStream::from(stream)))
    }

    /// Whether it is still there; an error says how it ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(exit) => Err(Error::Ended {
                program: VSOCK.to_owned(),
                status: exit.to_string(),
            }),
        }
    }
}
