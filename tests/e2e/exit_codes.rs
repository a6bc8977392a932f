//! What a command's end becomes.

use std::time::{Duration, Instant};

use crate::support::{fails, machine, output, tests};

tests![
    the_code_of_the_command_is_passed_on,
    every_code_from_0_to_255_is_passed_on,
    a_signal_is_128_and_its_number,
    a_command_that_does_not_exist_is_127,
    a_command_that_may_not_run_is_126,
    a_command_over_its_time_is_124,
];

fn the_code_of_the_command_is_passed_on() {
    for code in [0, 1, 255] {
        let status = output(&["host", "--", "sh", "-c", &format!("exit {code}")]).status;
        assert_eq!(status.code(), Some(code));
    }
}

fn every_code_from_0_to_255_is_passed_on() {
    let machine = machine("busybox");
    for code in 0..=255u8 {
        let exit = format!("exit {code}");
        let status = machine.command("sh").arg("-c").arg(exit).status().unwrap();
        assert_eq!(status.code(), Some(code));
    }
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
    fails(&["host", "--", "/no/such"], 127, &["/no/such"]);
}

fn a_command_that_may_not_run_is_126() {
    fails(&["host", "--", "/etc/passwd"], 126, &["/etc/passwd"]);
    fails(&["host", "--", "/etc"], 126, &["/etc"]);
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
