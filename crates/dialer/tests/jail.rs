//! What the process has left once its jail is closed, and that it is enough for its work.

mod rig;

use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use handoff::Channel;
use jailer::Exit;
use rig::{Device, PATIENCE, all_but, config, guest, nobody, pair, publish, udp};
use wire::net::{
    Ask, DialerConfig, DialerRequest, Egress, Failure, Kind, Protocol, Rule, Target, Tell, Verdict,
};

struct Process {
    process: jailer::Process,
    control: Channel,
    device: Device,
    log: PipeReader,
}

/// Starts the process, and says whether it was ready.
fn launch(config: &DialerConfig, published: Vec<OwnedFd>) -> (Process, handoff::Result<()>) {
    let (streams, their_streams) = pair();
    let (datagrams, their_datagrams) = pair();
    let (control, theirs) = Channel::pair().unwrap();
    let (log, stderr) = std::io::pipe().unwrap();
    let program = File::open(Path::new(env!("CARGO_BIN_EXE_crumble-dialer"))).unwrap();
    let process = jailer::spawn(jailer::Launch {
        policy: policy::component("dialer").unwrap(),
        program: program.as_fd(),
        title: "crumble-dialer: test",
        stderr: stderr.as_fd(),
        channel: theirs,
    })
    .unwrap();
    let mut resources = vec![
        ("streams".to_owned(), their_streams.as_fd()),
        ("datagrams".to_owned(), their_datagrams.as_fd()),
    ];
    let names = (0..).map(|number| format!("publish-{number}"));
    resources.extend(names.zip(published.iter().map(AsFd::as_fd)));
    handoff::start(&control, config, &resources).unwrap();
    let ready = handoff::await_ready(&control, PATIENCE);
    let device = Device { streams, datagrams };
    let process = Process {
        process,
        control,
        device,
        log,
    };
    (process, ready)
}

fn ready(config: &DialerConfig, published: Vec<OwnedFd>) -> Process {
    let (process, ready) = launch(config, published);
    ready.unwrap();
    process
}

impl Process {
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
fn it_filters_system_calls_and_has_no_capability_and_gains_none() {
    let process = ready(&config(all_but(&[])), vec![]);
    // SECCOMP_MODE_FILTER.
    assert_eq!(process.status("Seccomp"), "2");
    assert_eq!(process.status("NoNewPrivs"), "1");
    assert_eq!(process.status("Threads"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let bits = u64::from_str_radix(&process.status(set), 16);
        assert_eq!(bits, Ok(0), "{set}");
    }
}

#[test]
fn it_shares_the_network_with_the_host_and_nothing_else() {
    let process = ready(&config(all_but(&[])), vec![]);
    let pid = process.process.pid().to_string();
    let of = |pid: &str, name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in ["user", "mnt", "ipc", "uts", "cgroup", "pid"] {
        assert_ne!(of(&pid, name), of("self", name), "{name}");
    }
    assert_eq!(of(&pid, "net"), of("self", "net"));
    let root = format!("/proc/{pid}/root");
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn all_of_its_work_is_possible_in_the_jail() {
    let published_tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let published_udp = udp();
    let tcp = published_tcp.local_addr().unwrap();
    let datagrams = published_udp.local_addr().unwrap();
    let (first, one) = publish(Protocol::Tcp, 80, published_tcp);
    let (second, other) = publish(Protocol::Udp, 53, published_udp);
    let name_server = udp();
    let mut config = config(all_but(&[]));
    config.publish = vec![first, second];
    config.nameservers = vec![nobody(), name_server.local_addr().unwrap()];
    let process = ready(&config, vec![one, other]);
    let device = &process.device;
    for id in 0..100 {
        device.assert_served(id);
    }
    device.connect(1, nobody());
    assert!(matches!(device.told().0, Tell::Failed { .. }));
    if TcpListener::bind("[::1]:0").is_ok() {
        device.connect(1, (std::net::Ipv6Addr::LOCALHOST, nobody().port()));
        assert!(matches!(device.told().0, Tell::Failed { .. }));
        let remote = (std::net::Ipv6Addr::LOCALHOST, nobody().port());
        device.send(Kind::Udp, 9, remote, b"x");
        assert_eq!(device.heard().2, Kind::Refused);
    }
    let _outside = TcpStream::connect(tcp).unwrap();
    assert!(matches!(device.told(), (Tell::Accepted { .. }, Some(_))));
    let outside = udp();
    outside.send_to(b"x", datagrams).unwrap();
    let (_, peer, ..) = device.heard();
    device.send(Kind::Udp, 53, peer, b"y");
    outside.recv_from(&mut [0; 8]).unwrap();
    for _ in 0..3 {
        device.send(Kind::Udp, 9, nobody(), b"x");
        assert_eq!(device.heard().2, Kind::Refused);
    }
    // The host decides whether it may send echo requests; either way it is no reason to end.
    let loopback = (std::net::Ipv4Addr::LOCALHOST, 0);
    device.send(Kind::Echo { sequence: 7 }, 9, loopback, b"x");
    let (from, _, kind, payload) = device.heard();
    match kind {
        Kind::Echo { sequence } => {
            assert_eq!((from, sequence, &payload[..]), (guest(9), 7, &b"x"[..]))
        }
        other => assert_eq!(other, Kind::Unreachable),
    }
    let question = [7; 40];
    device.send(Kind::Dns, 9, name_server.local_addr().unwrap(), &question);
    name_server.recv_from(&mut [0; 64]).unwrap();
    let servers = DialerRequest::Nameservers(vec![nobody()]);
    process.control.send(&servers, &[]).unwrap();
    device.assert_served(1);
    drop(process.control);
    let process = Process {
        control: Channel::pair().unwrap().0,
        ..process
    };
    let (exit, log) = process.end();
    assert_eq!(exit, Exit::Code(0), "{log}");
}

#[test]
fn a_device_that_leaves_ends_it_with_0_and_one_that_sends_nonsense_does_not() {
    let mut process = ready(&config(all_but(&[])), vec![]);
    process.device.streams = pair().0;
    assert_eq!(process.end(), (Exit::Code(0), String::new()));
    let process = ready(&config(all_but(&[])), vec![]);
    process.device.send_raw(b"nonsense");
    let (exit, log) = process.end();
    assert_eq!(exit, Exit::Code(1));
    let expected = "dialer: the network device sent nonsense over `datagrams`: ";
    assert!(log.starts_with(expected), "{log}");
}

#[test]
fn a_policy_of_few_ports_is_landlocks_as_well() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let allowed = Rule {
        network: address.ip(),
        prefix: 32,
        ports: (address.port(), address.port()),
        verdict: Verdict::Allow,
    };
    let egress = Egress {
        rules: vec![allowed],
        otherwise: Verdict::Deny,
    };
    let mut config = config(egress);
    config.nameservers = vec![nobody()];
    let process = ready(&config, vec![]);
    process.device.connect(1, address);
    drop(process.device.connected(1));
    // Name servers are exempt from the egress policy, so only Landlock is in the way of others.
    let late = TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = DialerRequest::Nameservers(vec![late.local_addr().unwrap()]);
    process.control.send(&servers, &[]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let target = Target::Dns;
    process.device.ask(Ask::Connect { id: 2, target });
    let (tell, _) = process.device.told();
    let has_ports = jailer::landlock_abi().is_some_and(|version| version >= 4);
    let why = Failure::Denied;
    assert_eq!(tell == Tell::Failed { id: 2, why }, has_ports, "{tell:?}");
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let mut wrong = config(all_but(&["192.0.2.1/24"]));
    let (process, ready) = launch(&wrong, vec![]);
    let text = ready.unwrap_err().to_string();
    assert!(text.contains("`192.0.2.1/24` is no network"), "{text}");
    assert_eq!(process.end().0, Exit::Code(2));
    wrong = config(all_but(&[]));
    let (published, socket) = publish(Protocol::Tcp, 80, udp());
    wrong.publish = vec![published];
    let (_, ready) = launch(&wrong, vec![socket]);
    let text = ready.unwrap_err().to_string();
    assert!(text.contains("`publish-0` is not of the kind"), "{text}");
    let (_, ready) = launch(&wrong, vec![]);
    let text = ready.unwrap_err().to_string();
    assert!(text.contains("no resource named `publish-0`"), "{text}");
}

#[test]
fn a_program_started_by_hand_says_how_it_is_started() {
    let output = Command::new(env!("CARGO_BIN_EXE_crumble-dialer"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stderr.is_empty());
}

#[test]
fn the_readme_lists_what_the_policy_allows_and_nothing_else() {
    let policy = policy::component("dialer").unwrap();
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
    assert!(readme.contains("no capabilities") && policy.capabilities.is_empty());
    assert_eq!(policy.proc, None);
}
