//! The box's vsock device, launched as in production.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use handoff::Channel;
use jailer::{Launch, Process};
use rustix::fs::{MemfdFlags, memfd_create};
use wire::{
    agent::READY_PORT,
    vsock::{ACCEPTED, Config, Event, JOURNAL_SIZE, Request, Stream},
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
    door: Door,
}

/// The journal that the device is given, and nobody reads: without this process there is no box.
fn journal() -> io::Result<File> {
    let journal = File::from(memfd_create("journal", MemfdFlags::CLOEXEC)?);
    journal.set_len(JOURNAL_SIZE)?;
    Ok(journal)
}

/// Where streams to the box are asked for.
#[derive(Debug)]
pub(crate) struct Door {
    control: Channel,
    /// The number of the last stream.
    last: Arc<AtomicU32>,
}

impl Door {
    /// Connects a stream to a port of the box.
    pub(crate) fn connect(&self, port: u32, stream: BorrowedFd<'_>) -> Result<()> {
        let last = self.last.fetch_add(1, Ordering::Relaxed);
        let id = last.wrapping_add(1) & !ACCEPTED;
        let request = Request::Connect(Stream { id, port });
        Ok(self.control.send(&request, &[stream])?)
    }

    pub(crate) fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            control: self.control.try_clone()?,
            last: Arc::clone(&self.last),
        })
    }
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
        let journal = journal().map_err(file("make", Path::new("a file of memory")))?;
        let resources = [
            ("vhost-user".to_owned(), listening.listener.as_fd()),
            ("journal".to_owned(), journal.as_fd()),
        ];
        handoff::start(&control, &config, &resources)?;
        handoff::await_ready(&control, PATIENCE)?;
        control.send(&Request::Begin, &[])?;
        let door = Door {
            control: control.try_clone()?,
            last: Arc::default(),
        };
        Ok(Self {
            process,
            control,
            door,
        })
    }

    /// The channel to watch: it is readable when the device is gone.
    pub(crate) const fn control(&self) -> &Channel {
        &self.control
    }

    /// Where streams to the box are asked for.
    pub(crate) const fn door(&self) -> &Door {
        &self.door
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
        let (Event::Accepted(Stream { port, .. }), fds) = message?.ok_or_else(gone)?;
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
