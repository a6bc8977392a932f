//! What goes in and comes out.

use std::{
    io::{Read, Write},
    process::Stdio,
    thread,
};

use crate::support::{machine, output, run, stdout, tests};

tests![
    uname_is_the_guest_s,
    standard_error_is_kept_apart,
    a_hundred_megabytes_go_through_byte_exact,
    fifty_commands_run_at_once,
    a_terminal_is_one,
    environment_and_directory_are_as_asked,
    a_closed_output_ends_the_command,
    two_machines_run_at_once,
];

fn uname_is_the_guest_s() {
    let text = stdout(&["--hostname", "elsewhere", "host", "--", "uname", "-n"]);
    assert_eq!(text, "elsewhere\n");
}

fn standard_error_is_kept_apart() {
    let output = output(&["host", "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
}

/// Bytes that differ from page to page, so that one lost, doubled or moved is seen.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn a_hundred_megabytes_go_through_byte_exact() {
    let mut child = run(["-i", "busybox", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sent = pattern(100 << 20);
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn({
        let sent = sent.clone();
        move || stdin.write_all(&sent).unwrap()
    });
    let mut received = Vec::with_capacity(sent.len());
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut received)
        .unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(received.len(), sent.len());
    assert!(received == sent, "the bytes differ");
}

fn fifty_commands_run_at_once() {
    let machine = machine("busybox");
    thread::scope(|scope| {
        let start = |number: usize| {
            let machine = &machine;
            scope.spawn(move || {
                let script = format!("read line; echo {number} $line; exit {number}");
                let mut command = machine.command("sh");
                command.args(["-c", &script]).stdin(crumble::Stdio::Piped);
                let mut child = command.stdout(crumble::Stdio::Piped).spawn().unwrap();
                let mut stdin = child.stdin.take().unwrap();
                writeln!(stdin, "line {number}").unwrap();
                drop(stdin);
                let output = child.wait_with_output().unwrap();
                assert_eq!(output.status.code().map(usize::from), Some(number));
                let text = String::from_utf8(output.stdout).unwrap();
                assert_eq!(text, format!("{number} line {number}\n"));
            })
        };
        let all: Vec<_> = (0..50).map(start).collect();
        all.into_iter().for_each(|one| one.join().unwrap());
    });
    machine.shutdown().unwrap();
}

fn a_terminal_is_one() {
    let machine = machine("busybox");
    let mut command = machine.command("sh");
    command
        .args(["-c", "tty; stty size; read x; echo got $x"])
        .terminal(33, 99);
    command
        .stdin(crumble::Stdio::Piped)
        .stdout(crumble::Stdio::Piped);
    let mut child = command.spawn().unwrap();
    let mut terminal = child.terminal.take().unwrap();
    terminal.write_all(b"hello\r").unwrap();
    let mut text = String::new();
    terminal.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    for part in ["/dev/pts/", "33 99", "got hello"] {
        assert!(text.contains(part), "{part} is missing in {text:?}");
    }
    machine.shutdown().unwrap();
}

fn environment_and_directory_are_as_asked() {
    let script = "echo $A-$B; pwd";
    let arguments = [
        "-e", "A=1", "-e", "B=x y", "-w", "/tmp", "host", "--", "sh", "-c", script,
    ];
    assert_eq!(stdout(&arguments), "1-x y\n/tmp\n");
}

fn a_closed_output_ends_the_command() {
    let mut child = run(["busybox", "--", "yes"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 1000];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let status = child.wait().unwrap();
    // SIGPIPE, or an error on write, as the guest's kernel has it for the pipe of `yes`.
    assert!(!status.success());
}

fn two_machines_run_at_once() {
    let one = run(["host", "--", "sh", "-c", "echo one; sleep 3"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let two = stdout(&["host", "--", "echo", "two"]);
    assert_eq!(two, "two\n");
    let one = one.wait_with_output().unwrap();
    assert_eq!(one.stdout, b"one\n");
    assert!(one.status.success());
}
