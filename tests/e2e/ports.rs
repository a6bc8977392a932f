//! Ports of a machine that has no network.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    thread,
    time::Duration,
};

use crumble::{Machine, Network, Stdio};

use crate::support::{programs, tests};

tests![
    a_server_in_the_machine_is_connected_to,
    a_port_without_a_server_refuses,
    a_program_in_the_machine_connects_to_the_host,
    a_taken_port_is_said_to_be,
    fifty_programs_connect_at_once,
    a_machine_that_ends_ends_the_wait,
];

/// A machine that runs `image` and has no network.
fn machine(image: &str) -> Machine {
    let builder = Machine::builder(image.parse().unwrap()).network(Network::None);
    builder.programs(programs()).start().unwrap()
}

/// Connects as soon as something listens.
fn connect(machine: &Machine, port: u16) -> std::os::unix::net::UnixStream {
    loop {
        match machine.connect(port) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                thread::sleep(Duration::from_millis(20));
            }
            result => return result.unwrap(),
        }
    }
}

fn a_server_in_the_machine_is_connected_to() {
    let machine = machine("busybox");
    let mut server = machine.command("nc");
    server.args(["-l", "-p", "7", "-e", "sh", "-c", "wc -c; echo bye"]);
    let mut server = server.spawn().unwrap();
    let mut stream = connect(&machine, 7);
    let sent = vec![b'x'; 20_000_000];
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "20000000\nbye\n");
    assert!(server.wait().unwrap().success());
    machine.shutdown().unwrap();
}

fn a_port_without_a_server_refuses() {
    let machine = machine("busybox");
    let error = machine.connect(9).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    machine.shutdown().unwrap();
}

fn a_program_in_the_machine_connects_to_the_host() {
    let machine = machine("busybox");
    let listener = machine.listen(0).unwrap();
    let port = listener.local_port().to_string();
    let mut program = machine.command("nc");
    program.args(["127.0.0.1", &port]).stdin(Stdio::Piped);
    let mut program = program.stdout(Stdio::Piped).spawn().unwrap();
    program.stdin.take().unwrap().write_all(b"ask").unwrap();
    let (mut stream, from) = listener.accept().unwrap();
    assert!(from.ip().is_loopback());
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ask");
    stream.write_all(b"tell").unwrap();
    drop(stream);
    assert_eq!(program.wait_with_output().unwrap().stdout, b"tell");
    drop(listener);
    let mut late = machine.command("nc");
    let late = late.args(["127.0.0.1", &port]).output().unwrap();
    assert!(!late.status.success());
    machine.shutdown().unwrap();
}

fn a_taken_port_is_said_to_be() {
    let machine = machine("busybox");
    let taken = machine.listen(8080).unwrap();
    let error = machine.listen(taken.local_port()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    machine.shutdown().unwrap();
}

fn fifty_programs_connect_at_once() {
    let machine = machine("busybox");
    let listener = machine.listen(8080).unwrap();
    let script = "for i in $(seq 50); do echo $i | nc 127.0.0.1 8080 & done; wait";
    let mut programs = machine.command("sh");
    let programs = programs.args(["-c", script]).stdout(Stdio::Piped).spawn();
    let mut seen: Vec<u32> = listener
        .incoming()
        .take(50)
        .map(|stream| {
            let (mut stream, mut text) = (stream.unwrap(), String::new());
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            text.trim().parse().unwrap()
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(1..=50));
    let output = programs.unwrap().wait_with_output().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    assert_eq!(answers.lines().count(), 50, "{answers}");
    machine.shutdown().unwrap();
}

fn a_machine_that_ends_ends_the_wait() {
    let machine = machine("busybox");
    let listener = machine.listen(0).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| listener.accept().unwrap_err());
        thread::sleep(Duration::from_millis(200));
        machine.shutdown().unwrap();
        let error = waiting.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
    });
    let error = machine.connect(1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
}
