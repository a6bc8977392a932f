//! The library, used as a program that embeds machines uses it.

use std::io::{Read, Write};

use crumble::{End, Stdio};

use crate::support::{machine, tests};

tests![
    output_collects_both_streams_and_the_status,
    a_command_is_killed,
    a_child_is_written_to_and_read_from,
    exits_do_not_grow_with_the_data,
    every_process_costs_little,
    a_dropped_machine_is_gone,
];

fn output_collects_both_streams_and_the_status() {
    let machine = machine("busybox");
    let script = "cat; echo out; echo err >&2; exit 7";
    let output = machine.command("sh").args(["-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(machine.shutdown().unwrap(), End::PowerOff);
    assert_eq!(machine.try_wait().unwrap(), Some(End::PowerOff));
}

fn a_command_is_killed() {
    let machine = machine("busybox");
    let mut child = machine.command("sleep").arg("600").spawn().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

fn a_child_is_written_to_and_read_from() {
    let machine = machine("busybox");
    let mut command = machine.command("tr");
    command
        .args(["a-z", "A-Z"])
        .stdin(Stdio::Piped)
        .stdout(Stdio::Piped);
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "HELLO");
    assert!(child.wait().unwrap().success());
}

/// The data path does not pass the VMM: kicks are ioeventfds and interrupts irqfds, so what exits
/// there are is set-up, and the guest's own housekeeping.
fn exits_do_not_grow_with_the_data() {
    let machine = machine("host");
    let exits = || machine.stats().unwrap().exits.values().sum::<u64>();
    let read = |megabytes: u32| {
        let count = format!("count={megabytes}");
        let arguments = [
            "if=/usr/bin/qemu-system-x86_64",
            "of=/dev/null",
            "bs=1M",
            &count,
        ];
        let status = machine
            .command("dd")
            .args(arguments)
            .stderr(Stdio::Null)
            .status();
        assert!(status.unwrap().success());
    };
    read(1);
    let before = exits();
    read(8);
    let output = machine
        .command("head")
        .args(["-c", "8000000", "/dev/zero"])
        .output();
    assert_eq!(output.unwrap().stdout.len(), 8_000_000);
    let grown = exits() - before;
    assert!(grown < 50, "{grown} exits for 16 MB through two devices");
    machine.shutdown().unwrap();
}

fn every_process_costs_little() {
    let machine = machine("host");
    let status = machine
        .command("ls")
        .arg("/usr/bin")
        .stdout(Stdio::Null)
        .status();
    assert!(status.unwrap().success());
    let processes = machine.processes();
    let names: Vec<_> = processes
        .iter()
        .map(|process| process.name.as_str())
        .collect();
    assert_eq!(names, ["vmm", "fs-root", "net", "dialer", "vsock"]);
    let sum: u64 = processes
        .iter()
        .map(|process| process.private_bytes.unwrap())
        .sum();
    assert!(sum < 8 << 20, "{sum} bytes");
    machine.shutdown().unwrap();
}

fn a_dropped_machine_is_gone() {
    let machine = machine("busybox");
    let processes = machine.processes();
    drop(machine);
    for process in processes {
        let path = format!("/proc/{}/status", process.pid);
        assert!(
            std::fs::read_to_string(path).is_err(),
            "{} lives",
            process.name
        );
    }
}
