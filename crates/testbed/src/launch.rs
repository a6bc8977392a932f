//! The box's vsock device, launched as in production.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use handoff::Channel;
use wire::{
    agent::READY_PORT,
    vsock::{Config, Event, Request},
};

use crate::{
    build::VSOCK,
    error::{Error, Result, system},
    machine::Listening,
};

/// The box's context id. It meets no other machine on its device.
const CID: u64 = 3;

/// How long the device may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// The device's process; it ends with this value.
#[derive(Debug)]
pub(crate) struct Vsock {
    process: Child,
    control: Channel,
}

impl Vsock {
    /// Starts the device behind `listening`.
    pub(crate) fn start(bin_dir: &Path, listening: &Listening) -> Result<Self> {
        let program = bin_dir.join(VSOCK);
        let (control, theirs) = Channel::pair()?;
        let process = Command::new("sh")
            .args(["-c", "exec \"$0\" 3<&0 0</dev/null"])
            .arg(&program)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(|source| Error::Spawn {
                program: program.display().to_string(),
                source,
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
        let ended = self.process.try_wait().map_err(system("watch a process"))?;
        match ended {
            None => Ok(()),
            Some(status) => Err(Error::Ended {
                program: VSOCK.to_owned(),
                status: status.to_string(),
            }),
        }
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
