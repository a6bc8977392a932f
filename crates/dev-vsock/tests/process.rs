//! The process as the supervisor sees it: launch, streams over the control channel, end.

mod guest;
mod jailed;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use dev_vsock::request::Op;
use guest::{CID, PORT};
use jailed::launch;
use jailer::Exit;

#[test]
fn streams_travel_over_the_control_channel_both_ways() {
    let (mut process, ready) = launch(CID);
    ready.unwrap();
    let mut guest = process.guest();
    let mut stream = process.connect(1024);
    let (host_port, guest_port) = guest.accept();
    stream.write_all(b"in").unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"in");
    guest.send_data(host_port, guest_port, b"out");
    stream.read_exact(&mut [0; 3]).unwrap();

    guest.connect(PORT, 5);
    let mut stream = process.accept();
    stream.write_all(b"welcome").unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"welcome");
    guest.vanish();
    assert_eq!(process.end(), (Exit::Code(0), String::new()));
}

#[test]
fn a_supervisor_that_leaves_ends_the_process_before_and_after_a_front_end_came() {
    for with_front_end in [false, true] {
        let (mut process, ready) = launch(CID);
        ready.unwrap();
        let _guest = with_front_end.then(|| process.guest());
        process.control = None;
        assert_eq!(process.end(), (Exit::Code(0), String::new()));
    }
}

#[test]
fn a_reserved_context_id_is_refused_with_the_reason() {
    let (process, ready) = launch(2);
    let error = ready.unwrap_err().to_string();
    assert!(error.contains("guest CID 2 is reserved"), "{error}");
    let (exit, log) = process.end();
    assert_eq!(exit, Exit::Code(2));
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
    process.control().send(&u64::MAX, &[]).unwrap();
    let (exit, log) = process.end();
    assert_eq!(exit, Exit::Code(0));
    assert!(log.contains("nonsense"), "{log}");
}
