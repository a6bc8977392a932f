//! The device's process in its jail, as the supervisor starts it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use handoff::Channel;
use jailer::Exit;
use wire::block::Config;

use crate::guest::{ALL, Guest, PATIENCE};

pub struct Process {
    pub process: jailer::Process,
    pub control: Option<Channel>,
    pub socket: UnixStream,
    queues: u16,
    log: PipeReader,
}

/// Starts the process, and says whether it was ready.
pub fn launch(config: &Config, files: &[OwnedFd]) -> (Process, handoff::Result<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = UnixStream::connect(&path).unwrap();
    let (control, theirs) = Channel::pair().unwrap();
    let (log, stderr) = std::io::pipe().unwrap();
    let program = File::open(Path::new(env!("CARGO_BIN_EXE_crumble-dev-block"))).unwrap();
    let process = jailer::spawn(jailer::Launch {
        policy: policy::component("dev-block").unwrap(),
        program: program.as_fd(),
        title: "crumble-dev-block: test",
        stderr: stderr.as_fd(),
        channel: theirs,
    })
    .unwrap();
    let mut resources = vec![("vhost-user".to_owned(), listener.as_fd())];
    let files = files.iter().enumerate();
    resources.extend(files.map(|(index, file)| (Config::resource(index), file.as_fd())));
    handoff::start(&control, config, &resources).unwrap();
    let ready = handoff::await_ready(&control, PATIENCE);
    let process = Process {
        process,
        control: Some(control),
        socket,
        queues: config.queues,
        log,
    };
    (process, ready)
}

impl Process {
    pub fn guest(&self) -> Guest {
        Guest::start_with(self.socket.try_clone().unwrap(), ALL, self.queues)
    }

    /// A line of `/proc/PID/status`.
    pub fn status(&self, key: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }

    /// Waits for it to end: how, and the log.
    pub fn end(mut self) -> (Exit, String) {
        let exit = self.process.wait(Some(PATIENCE)).unwrap();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (exit.expect("the process does not end"), log)
    }
}
