//! The device's process in its jail, as the supervisor starts it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::fs::File;
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use handoff::Channel;
use jailer::Exit;
use vq_driver::{Driver, Setup};
use wire::vsock::{Config, Event, Request, Stream};

use crate::guest::{CID, Guest, Layout, PATIENCE, PORT, journal};

pub struct Process {
    pub process: jailer::Process,
    pub control: Option<Channel>,
    pub socket: UnixStream,
    log: PipeReader,
    pub estate: Estate,
}

/// What outlives a process: its journal, and the device's ends of streams.
pub struct Estate {
    journal: File,
    pub streams: Vec<(Stream, OwnedFd)>,
    connects: u32,
}

impl Estate {
    fn new() -> Self {
        Self {
            journal: journal(),
            streams: Vec::new(),
            connects: 0,
        }
    }

    /// Tells a process of the streams, and to begin.
    fn hand_over(&self, control: &Channel) {
        for (stream, end) in &self.streams {
            let request = Request::Resume(vec![*stream]);
            control.send(&request, &[end.as_fd()]).unwrap();
        }
        control.send(&Request::Begin, &[]).unwrap();
    }
}

/// Starts the process, and says whether it was ready.
pub fn launch(guest_cid: u64) -> (Process, handoff::Result<()>) {
    let program = Path::new(env!("CARGO_BIN_EXE_crumble-dev-vsock"));
    launch_program(program, "crumble-dev-vsock: test", guest_cid)
}

/// As [`launch`], with a program that stands in for the device's.
pub fn launch_program(
    program: &Path,
    title: &str,
    guest_cid: u64,
) -> (Process, handoff::Result<()>) {
    launch_heir(program, title, guest_cid, Estate::new())
}

fn launch_heir(
    program: &Path,
    title: &str,
    guest_cid: u64,
    estate: Estate,
) -> (Process, handoff::Result<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = UnixStream::connect(&path).unwrap();
    let (control, theirs) = Channel::pair().unwrap();
    let (log, stderr) = std::io::pipe().unwrap();
    let program = File::open(program).unwrap();
    let process = jailer::spawn(jailer::Launch {
        policy: policy::component("dev-vsock").unwrap(),
        program: program.as_fd(),
        title,
        stderr: stderr.as_fd(),
        channel: theirs,
    })
    .unwrap();
    let config = Config {
        guest_cid,
        accept_ports: vec![PORT],
    };
    let resources = [
        ("vhost-user".to_owned(), listener.as_fd()),
        ("journal".to_owned(), estate.journal.as_fd()),
    ];
    handoff::start(&control, &config, &resources).unwrap();
    let ready = handoff::await_ready(&control, PATIENCE);
    control.set_timeout(Some(PATIENCE)).unwrap();
    if ready.is_ok() {
        estate.hand_over(&control);
    }
    (
        Process {
            process,
            control: Some(control),
            socket,
            log,
            estate,
        },
        ready,
    )
}

impl Process {
    pub fn guest(&self) -> Guest {
        let setup = Setup {
            memory: 64 << 20,
            queues: &[128, 128, 16],
            ..Setup::default()
        };
        let driver = Driver::start(self.socket.try_clone().unwrap(), &setup).unwrap();
        Guest::over(driver, Layout::Split, 4096 + 44)
    }

    pub fn control(&self) -> &Channel {
        self.control.as_ref().unwrap()
    }

    pub fn connect(&mut self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.estate.connects += 1;
        let stream = Stream {
            id: self.estate.connects,
            port,
        };
        let request = Request::Connect(stream);
        self.control().send(&request, &[theirs.as_fd()]).unwrap();
        self.estate.streams.push((stream, theirs.into()));
        ours
    }

    pub fn accept(&mut self) -> UnixStream {
        let (event, fds) = self.control().receive::<Event>().unwrap().unwrap();
        let Event::Accepted(stream) = event;
        assert_eq!(stream.port, PORT);
        let [theirs, ours] = <[OwnedFd; 2]>::try_from(fds).unwrap();
        self.estate.streams.push((stream, ours));
        UnixStream::from(theirs)
    }

    /// Kills it, and starts another in its place for the same guest.
    pub fn replace(mut self, guest: &mut Guest) -> Self {
        self.process.kill().unwrap();
        self.process.wait(None).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_crumble-dev-vsock"));
        let (next, ready) = launch_heir(program, "crumble-dev-vsock: heir", CID, self.estate);
        ready.unwrap();
        let stream = next.socket.try_clone().unwrap();
        guest.driver.resume(stream, PATIENCE).unwrap();
        next
    }

    /// Waits for it to end by itself: how, and the log.
    pub fn end(mut self) -> (Exit, String) {
        let exit = self.process.wait(Some(PATIENCE)).unwrap();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (exit.expect("the process does not end"), log)
    }
}
