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
use wire::vsock::{Config, Event, Request};

use crate::guest::{Guest, Layout, PATIENCE, PORT};

pub struct Process {
    pub process: jailer::Process,
    pub control: Option<Channel>,
    pub socket: UnixStream,
    log: PipeReader,
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
    let resources = [("vhost-user".to_owned(), listener.as_fd())];
    handoff::start(&control, &config, &resources).unwrap();
    let ready = handoff::await_ready(&control, PATIENCE);
    control.set_timeout(Some(PATIENCE)).unwrap();
    (
        Process {
            process,
            control: Some(control),
            socket,
            log,
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

    pub fn connect(&self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = Request::Connect { port };
        self.control().send(&request, &[theirs.as_fd()]).unwrap();
        ours
    }

    pub fn accept(&self) -> UnixStream {
        let (event, fds) = self.control().receive::<Event>().unwrap().unwrap();
        assert_eq!(event, Event::Accepted { port: PORT });
        let [fd] = <[OwnedFd; 1]>::try_from(fds).unwrap();
        UnixStream::from(fd)
    }

    /// Waits for it to end by itself: how, and the log.
    pub fn end(mut self) -> (Exit, String) {
        let exit = self.process.wait(Some(PATIENCE)).unwrap();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (exit.expect("the process does not end"), log)
    }
}
