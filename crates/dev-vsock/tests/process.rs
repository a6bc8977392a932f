//! The process as the supervisor sees it: launch, streams over the control channel, end.

mod guest;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dev_vsock::request::Op;
use guest::{CID, Guest, Layout, PATIENCE, PORT};
use handoff::Channel;
use vq_driver::{Driver, Setup};
use wire::vsock::{Config, Event, Request};

struct Process {
    child: Child,
    control: Channel,
    socket: UnixStream,
}

/// Starts the program with `control` as its descriptor 3, as the jailer would.
fn spawn(control: Channel) -> Child {
    Command::new("sh")
        .args([
            "-c",
            "exec \"$0\" 3<&0 0</dev/null",
            env!("CARGO_BIN_EXE_crumble-dev-vsock"),
        ])
        .stdin(Stdio::from(OwnedFd::from(control)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn launch(guest_cid: u64) -> (Process, handoff::Result<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = UnixStream::connect(&path).unwrap();
    let (control, theirs) = Channel::pair().unwrap();
    let child = spawn(theirs);
    let config = Config {
        guest_cid,
        accept_ports: vec![PORT],
    };
    handoff::start(
        &control,
        &config,
        &[("vhost-user".to_owned(), listener.as_fd())],
    )
    .unwrap();
    let ready = handoff::await_ready(&control, PATIENCE);
    control.set_timeout(Some(PATIENCE)).unwrap();
    (
        Process {
            child,
            control,
            socket,
        },
        ready,
    )
}

impl Process {
    fn guest(&self) -> Guest {
        let setup = Setup {
            memory: 64 << 20,
            queues: &[128, 128, 16],
            ..Setup::default()
        };
        let driver = Driver::start(self.socket.try_clone().unwrap(), &setup).unwrap();
        Guest::over(driver, Layout::Split, 4096 + 44)
    }

    fn connect(&self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.control
            .send(&Request::Connect { port }, &[theirs.as_fd()])
            .unwrap();
        ours
    }

    /// The exit code and the log.
    fn end(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        (status.code(), log)
    }
}

#[test]
fn streams_travel_over_the_control_channel_both_ways() {
    let (process, ready) = launch(CID);
    ready.unwrap();
    let mut guest = process.guest();
    let mut stream = process.connect(1024);
    let (host_port, guest_port) = guest.accept();
    stream.write_all(b"in").unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"in");
    guest.send_data(host_port, guest_port, b"out");
    stream.read_exact(&mut [0; 3]).unwrap();

    guest.connect(PORT, 5);
    let (event, fds) = process.control.receive::<Event>().unwrap().unwrap();
    assert_eq!(event, Event::Accepted { port: PORT });
    let [fd] = <[OwnedFd; 1]>::try_from(fds).unwrap();
    let mut stream = UnixStream::from(fd);
    stream.write_all(b"welcome").unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"welcome");
    guest.vanish();
    drop(stream);
    assert_eq!(process.end(), (Some(0), String::new()));
}

#[test]
fn a_supervisor_that_leaves_ends_the_process_before_and_after_a_front_end_came() {
    for with_front_end in [false, true] {
        let (process, ready) = launch(CID);
        ready.unwrap();
        let guest = with_front_end.then(|| process.guest());
        let Process {
            child,
            control,
            socket,
        } = process;
        drop(control);
        let (_, unused) = Channel::pair().unwrap();
        let process = Process {
            child,
            control: unused,
            socket,
        };
        assert_eq!(process.end(), (Some(0), String::new()));
        drop(guest);
    }
}

#[test]
fn a_reserved_context_id_is_refused_with_the_reason() {
    let (process, ready) = launch(2);
    let error = ready.unwrap_err().to_string();
    assert!(error.contains("guest CID 2 is reserved"), "{error}");
    let (code, log) = process.end();
    assert_eq!(code, Some(2));
    assert!(log.contains("choose one from 3"), "{log}");
}

#[test]
fn a_program_started_by_hand_says_how_it_is_started() {
    let output = Command::new(env!("CARGO_BIN_EXE_crumble-dev-vsock"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stderr.is_empty());
}

#[test]
fn nonsense_on_the_control_channel_ends_the_process() {
    let (process, ready) = launch(CID);
    ready.unwrap();
    let _guest = process.guest();
    process.control.send(&u64::MAX, &[]).unwrap();
    let (code, log) = process.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("nonsense"), "{log}");
}
