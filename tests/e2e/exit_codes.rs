//! What a command's end becomes.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crumble::Stdio;

use crate::support::{fails, machine, output, programs, tests};

tests![
    the_code_of_the_command_is_passed_on,
    every_code_from_0_to_255_is_passed_on,
    a_signal_is_128_and_its_number,
    a_command_that_does_not_exist_is_127,
    a_command_that_may_not_run_is_126,
    a_command_over_its_time_is_124,
    doctor_is_content_where_machines_run,
];

fn the_code_of_the_command_is_passed_on() {
    let status = output(&["host", "--", "sh", "-c", "exit 255"]).status;
    assert_eq!(status.code(), Some(255));
}

fn every_code_from_0_to_255_is_passed_on() {
    let machine = machine("busybox");
    // Sixteen at a time, so that it takes a while and not an age on emulated hardware.
    thread::scope(|scope| {
        for first in 0..16u8 {
            let machine = &machine;
            scope.spawn(move || {
                for code in (0..16).map(|round| round * 16 + first) {
                    let exit = format!("exit {code}");
                    let mut command = machine.command("sh");
                    command.args(["-c", &exit]).stdin(Stdio::Null);
                    assert_eq!(command.status().unwrap().code(), Some(code));
                }
            });
        }
    });
    machine.shutdown().unwrap();
}

fn a_signal_is_128_and_its_number() {
    let status = output(&["host", "--", "sh", "-c", "kill -9 $$"]).status;
    assert_eq!(status.code(), Some(128 + 9));
}

fn a_command_that_does_not_exist_is_127() {
    fails(
        &["host", "--", "no-such-command"],
        127,
        &["no-such-command"],
    );
}

fn a_command_that_may_not_run_is_126() {
    fails(&["host", "--", "/etc/passwd"], 126, &["/etc/passwd"]);
}

fn a_command_over_its_time_is_124() {
    let began = Instant::now();
    fails(
        &["--timeout", "8s", "host", "--", "sleep", "600"],
        124,
        &["8s"],
    );
    assert!(began.elapsed() < Duration::from_secs(120));
}

fn doctor_is_content_where_machines_run() {
    let output = Command::new(programs().join("crumble"))
        .arg("doctor")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
}
