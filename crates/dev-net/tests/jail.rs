//! What the process has left once its jail is closed, and that it is enough for its work.

mod guest;
mod namespace;
mod stack;

use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use dev_net::header::Header;
use guest::frames::{ROUTER, udp};
use guest::{ALL, Guest, PATIENCE, config, pair};
use handoff::Channel;
use jailer::Exit;
use smoltcp::socket::tcp::State;
use stack::Stack;
use wire::net::{Backend, Config};

struct Process {
    process: jailer::Process,
    control: Option<Channel>,
    socket: UnixStream,
    log: PipeReader,
}

/// Starts the process, and says whether it was ready.
fn launch(config: &Config, resources: &[(&str, BorrowedFd<'_>)]) -> (Process, handoff::Result<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = UnixStream::connect(&path).unwrap();
    let (control, theirs) = Channel::pair().unwrap();
    let (log, stderr) = std::io::pipe().unwrap();
    let program = File::open(Path::new(env!("CARGO_BIN_EXE_crumble-dev-net"))).unwrap();
    let process = jailer::spawn(jailer::Launch {
        policy: policy::component("dev-net").unwrap(),
        program: program.as_fd(),
        title: "crumble-dev-net: test",
        stderr: stderr.as_fd(),
        channel: theirs,
    })
    .unwrap();
    let mut all = vec![("vhost-user".to_owned(), listener.as_fd())];
    all.extend(resources.iter().map(|(name, fd)| ((*name).to_owned(), *fd)));
    handoff::start(&control, config, &all).unwrap();
    let ready = handoff::await_ready(&control, PATIENCE);
    let process = Process {
        process,
        control: Some(control),
        socket,
        log,
    };
    (process, ready)
}

/// A process in user mode, and the dialer's ends of its sockets.
fn user() -> (Process, Channel, OwnedFd) {
    let (streams, their_streams) = pair();
    let (datagrams, their_datagrams) = pair();
    let resources = [
        ("streams", their_streams.as_fd()),
        ("datagrams", their_datagrams.as_fd()),
    ];
    let (process, ready) = launch(&config(65520), &resources);
    ready.unwrap();
    (process, streams.into(), datagrams)
}

impl Process {
    fn guest(&self) -> Guest {
        Guest::start_with(self.socket.try_clone().unwrap(), ALL, 4096)
    }

    /// A line of `/proc/PID/status`.
    fn status(&self, key: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }

    /// Waits for it to end by itself: how, and the log.
    fn end(mut self) -> (Exit, String) {
        let exit = self.process.wait(Some(PATIENCE)).unwrap();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (exit.expect("the process does not end"), log)
    }
}

#[test]
fn it_filters_system_calls_and_has_no_capability_and_no_network() {
    let (process, _streams, _datagrams) = user();
    // SECCOMP_MODE_FILTER.
    assert_eq!(process.status("Seccomp"), "2");
    assert_eq!(process.status("NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let bits = u64::from_str_radix(&process.status(set), 16);
        assert_eq!(bits, Ok(0), "{set}");
    }
    let pid = process.process.pid();
    let of = |pid: &str, name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in ["user", "mnt", "ipc", "uts", "cgroup", "pid", "net"] {
        assert_ne!(of(&pid.to_string(), name), of("self", name), "{name}");
    }
    let root = format!("/proc/{pid}/root");
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn the_network_in_user_mode_is_possible_in_the_jail() {
    let (mut process, streams, datagrams) = user();
    guest::dialer::serve_ends(streams, datagrams);
    let mut stack = Stack::new(process.guest(), 65520, false);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = (
        IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)),
        listener.local_addr().unwrap().port(),
    );
    // Ends, resets, much in both directions, and a host that does not read for a while.
    let handle = stack.connect(1 << 20, to, 40_000);
    stack.await_state(handle, State::Established);
    let (mut stream, _) = listener.accept().unwrap();
    let mut still = 0;
    let mut sent = 0;
    stack.run("a stall", |stack| {
        let count = stack.tcp(handle).send_slice(&[0; 65536]).unwrap();
        sent += count;
        still = if count == 0 { still + 1 } else { 0 };
        still > 200
    });
    let reader = std::thread::spawn(move || {
        stream.read_exact(&mut vec![0; sent]).unwrap();
        std::io::Write::write_all(&mut stream, &vec![1; 4 << 20]).unwrap();
        stream
    });
    assert_eq!(stack.exchange(handle, &[], 4 << 20).len(), 4 << 20);
    drop(reader.join().unwrap());
    stack.await_state(handle, State::CloseWait);
    stack.tcp(handle).close();
    stack.await_state(handle, State::Closed);
    let handle = stack.connect(65536, to, 40_001);
    stack.await_state(handle, State::Established);
    let (mut stream, _) = listener.accept().unwrap();
    stack.tcp(handle).abort();
    stack.poll();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // The supervisor leaves.
    process.control = None;
    let (exit, log) = process.end();
    assert_eq!(exit, Exit::Code(0), "{log}");
}

#[test]
fn a_tap_device_and_a_record_are_possible_in_the_jail() {
    if !namespace::is_possible() {
        return;
    }
    let test = std::thread::spawn(|| {
        namespace::enter();
        let tap = namespace::tap();
        namespace::ip("link set tap0 address 02:63:72:75:6d:62 up");
        namespace::ip("addr add 10.0.2.2/24 dev tap0");
        namespace::ip("neigh add 10.0.2.15 lladdr 02:00:00:00:00:15 dev tap0");
        let file = tempfile::NamedTempFile::new().unwrap();
        let record: OwnedFd = file.reopen().unwrap().into();
        let config = Config {
            backend: Backend::Tap,
            ..config(1500)
        };
        let resources = [("tap", tap.as_fd()), ("pcap", record.as_fd())];
        let (mut process, ready) = launch(&config, &resources);
        ready.unwrap();
        let mut guest = process.guest();
        // The kernel answers that nobody has the port.
        guest.send(
            &Header::default(),
            &udp(5000, SocketAddrV4::new(ROUTER, 9), b"x"),
        );
        while guest.receive().1[12..14] != [8, 0] {}
        assert!(file.as_file().metadata().unwrap().len() > 100);
        process.control = None;
        let (exit, log) = process.end();
        assert_eq!(exit, Exit::Code(0), "{log}");
    });
    test.join().unwrap();
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let (process, ready) = launch(&config(900), &[]);
    let text = ready.unwrap_err().to_string();
    assert!(text.contains("an MTU of 900 bytes"), "{text}");
    assert_eq!(process.end().0, Exit::Code(2));
    let (_, ready) = launch(&config(1500), &[]);
    let text = ready.unwrap_err().to_string();
    assert!(text.contains("no resource named `streams`"), "{text}");
}

#[test]
fn a_program_started_by_hand_says_how_it_is_started() {
    let output = Command::new(env!("CARGO_BIN_EXE_crumble-dev-net"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stderr.is_empty());
}

#[test]
fn the_readme_lists_what_the_policy_allows_and_nothing_else() {
    let policy = policy::component("dev-net").unwrap();
    let mut allowed: Vec<_> = policy
        .calls
        .iter()
        .filter(|call| call.value.error.is_none())
        .map(|call| call.value.name)
        .collect();
    allowed.sort_unstable();
    let readme = include_str!("../README.md");
    let block = readme.split("```text\n").nth(1).unwrap();
    let listed = block.split("```").next().unwrap().split_whitespace();
    let all = allowed.join(" ");
    assert!(listed.eq(allowed), "README.md should list:\n{all}");
}
