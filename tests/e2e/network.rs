//! A guest's network, and what becomes of it when its device dies.

use std::{
    io::{Read, Write, stderr},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crumble::{Builder, Machine, Stdio};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{eventually, programs, stdout, stdout_of, tests, unshared};

tests![
    a_guest_has_addresses_routes_and_a_name_server,
    a_guest_without_a_network_has_no_interface,
    a_published_port_leads_to_the_guest,
    a_guest_reaches_the_port_of_the_host_that_it_may_and_no_other,
    packets_are_recorded,
    a_tap_device_is_one_machine_s_and_leads_to_the_host,
    a_network_device_that_is_killed_is_replaced_and_connections_are_made_again,
    a_dialer_that_is_killed_is_replaced_and_connections_are_made_again,
    a_network_device_that_is_killed_again_and_again_ends_the_machine,
];

fn builder() -> Builder {
    Machine::builder("busybox".parse().unwrap()).programs(programs())
}

fn shell(machine: &Machine, script: &str) -> String {
    let output = machine.command("sh").args(["-c", script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn a_guest_has_addresses_routes_and_a_name_server() {
    let script = "ip address; ip route; ip -6 route; cat /etc/resolv.conf /etc/hosts";
    let text = stdout(&["busybox", "--", "sh", "-c", script]);
    for word in [
        "10.0.2.15/24",
        "fd63:7275:6d62::15/64",
        "default via 10.0.2.2",
        "default via fd63:7275:6d62::2",
        "nameserver 10.0.2.2",
        "host.internal",
        "mtu 65520",
    ] {
        assert!(text.contains(word), "\"{word}\" is missing in: {text}");
    }
}

fn a_guest_without_a_network_has_no_interface() {
    let interfaces = ["ls", "/sys/class/net"];
    let text = stdout(&[
        "--network",
        "none",
        "busybox",
        "--",
        interfaces[0],
        interfaces[1],
    ]);
    assert_eq!(text, "lo\n");
}

/// A server in the guest that says who is asked, again and again.
fn serve(machine: &Machine) -> crumble::Child {
    // It serves one at a time, and one whose end was lost with a process that was killed not for ever.
    let script = "while :; do echo guest | timeout 3 nc -l -p 7; done";
    let mut server = machine.command("sh");
    let server = server.args(["-c", script]).stdin(Stdio::Null);
    server.stdout(Stdio::Null).stderr(Stdio::Null);
    server.spawn().unwrap()
}

/// What the published port says, if it is answered.
fn ask(port: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&port, Duration::from_secs(5)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

fn a_published_port_leads_to_the_guest() {
    let machine = builder().publish("0:7".parse().unwrap()).start().unwrap();
    let port = machine.published()[0].host;
    let _server = serve(&machine);
    let mut said = None;
    eventually("the port says nothing", || {
        said = ask(port);
        said.is_some()
    });
    assert_eq!(said.as_deref(), Some("guest\n"));
    machine.shutdown().unwrap();
}

fn a_guest_reaches_the_port_of_the_host_that_it_may_and_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"host\n").unwrap();
        }
    });
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = other.local_addr().unwrap().port();
    let network = format!("user,host={port}").parse().unwrap();
    let machine = builder().network(network).start().unwrap();
    let said = shell(&machine, &format!("nc host.internal {port} </dev/null"));
    assert_eq!(said, "host\n");
    let script = format!("nc -w 5 host.internal {closed} </dev/null || echo refused");
    assert_eq!(shell(&machine, &script), "refused\n");
    let script = format!("nc -w 5 127.0.0.1 {port} </dev/null || echo refused");
    assert_eq!(shell(&machine, &script), "refused\n");
    machine.shutdown().unwrap();
}

fn packets_are_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("packets");
    let machine = builder().pcap(&file).start().unwrap();
    shell(&machine, "nc -w 1 gateway.internal 9 </dev/null");
    machine.shutdown().unwrap();
    let record = std::fs::read(&file).unwrap();
    // Classic pcap or pcapng, and more than its beginning.
    let known = [
        [0xd4, 0xc3, 0xb2, 0xa1],
        [0x4d, 0x3c, 0xb2, 0xa1],
        [0x0a, 0x0d, 0x0d, 0x0a],
    ];
    assert!(known.iter().any(|magic| record.starts_with(magic)));
    assert!(record.len() > 100, "{}", record.len());
}

fn a_tap_device_is_one_machine_s_and_leads_to_the_host() {
    let script = "set -e
        cd \"$1\"; mkfifo end
        \"$0\" network create t0 --address 10.9.0.1/24
        \"$0\" run -i --network tap=t0,address=10.9.0.2/24,gateway=10.9.0.1 busybox -- \
            sh -c 'ping -c 1 10.9.0.1 && echo up && cat' <end >out &
        exec 3>end
        until grep -q up out; do kill -0 $!; sleep 0.1; done
        \"$0\" network ls
        ! \"$0\" network rm t0 2>&1
        ! \"$0\" run --network tap=t0 host -- true 2>&1
        exec 3>&-; wait $!
        \"$0\" network rm t0; \"$0\" network ls";
    let directory = tempfile::tempdir().unwrap();
    let text = stdout_of(unshared(
        "--net",
        script,
        &[directory.path().to_str().unwrap()],
    ));
    for words in [
        "t0              root         used   10.9.0.1/24",
        "cannot remove t0; a program, perhaps a machine, has it",
        "cannot use the TAP device t0; another program has it",
        "This host has no TAP device.",
    ] {
        assert!(text.contains(words), "\"{words}\" is missing in: {text}");
    }
}

fn end(machine: &Machine, name: &str) {
    let processes = machine.processes();
    let process = processes.iter().find(|process| process.name == name);
    kill(Pid::from_raw(process.unwrap().pid), Signal::SIGKILL).unwrap();
}

/// Kills one process of the network a few times, and finds the guest at the same port again.
fn mended_after(name: &str) {
    let machine = builder().publish("0:7".parse().unwrap()).start().unwrap();
    let port = machine.published()[0].host;
    let _server = serve(&machine);
    let answered = || ask(port).as_deref() == Some("guest\n");
    eventually("the port says nothing", answered);
    let boot = shell(&machine, "cat /proc/sys/kernel/random/boot_id");
    for _ in 0..3 {
        let killed = Instant::now();
        end(&machine, name);
        eventually("the port says nothing any more", answered);
        let after = killed.elapsed();
        let _ = writeln!(stderr(), "answered {after:?} after the death of {name}");
    }
    let same = shell(&machine, "cat /proc/sys/kernel/random/boot_id");
    assert_eq!(same, boot);
    machine.shutdown().unwrap();
}

fn a_network_device_that_is_killed_is_replaced_and_connections_are_made_again() {
    mended_after("net");
}

fn a_dialer_that_is_killed_is_replaced_and_connections_are_made_again() {
    mended_after("dialer");
}

fn a_network_device_that_is_killed_again_and_again_ends_the_machine() {
    let machine = builder().start().unwrap();
    let mut deaths = 0;
    let mut last = None;
    eventually("it goes on", || {
        let processes = machine.processes();
        let net = processes.iter().find(|process| process.name == "net");
        let pid = net.map(|process| process.pid);
        if pid != last && deaths < 6 {
            end(&machine, "net");
            (last, deaths) = (pid, deaths + 1);
        }
        machine.try_wait().is_err()
    });
    let error = machine.wait().unwrap_err().to_string();
    assert!(error.contains("net"), "{error}");
}
