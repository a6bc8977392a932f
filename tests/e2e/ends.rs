//! How machines end, and that nothing is left of them.

use std::{
    io::{Read, Write},
    process::{Child, Stdio},
    time::Duration,
};

use crumble::End;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{all_gone, eventually, fails, family, machine, run, running, send, tests};

tests![
    a_signal_is_passed_on_to_the_command,
    nothing_is_left_when_the_command_line_is_killed,
    nothing_is_left_when_it_is_interrupted_while_booting,
    three_requests_to_end_do_what_one_does_not,
    a_guest_that_powers_off_ends_the_machine,
    a_guest_that_reboots_ends_the_machine,
    a_guest_that_panics_ends_the_machine,
    a_vmm_that_is_killed_is_named,
    a_device_that_stands_still_is_replaced,
    a_vsock_device_that_is_killed_is_not_noticed,
    the_power_button_reaches_the_guest_s_kernel,
];

/// The processes of the machine, without `crumble` itself.
fn components(child: &Child) -> Vec<(u32, String)> {
    let mut family = family(child.id());
    family.retain(|(pid, _)| *pid != child.id());
    assert!(family.len() >= 3, "{family:?}");
    family
}

fn a_signal_is_passed_on_to_the_command() {
    let mut child = running("trap 'exit 42' TERM;");
    let processes = components(&child);
    send(child.id(), Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(42));
    all_gone(&processes);
}

fn nothing_is_left_when_the_command_line_is_killed() {
    let mut child = running("");
    let processes = components(&child);
    send(child.id(), Signal::SIGKILL);
    child.wait().unwrap();
    all_gone(&processes);
}

fn nothing_is_left_when_it_is_interrupted_while_booting() {
    let mut child = run(["host", "--", "true"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut processes = Vec::new();
    eventually("no process was started", || {
        processes = family(child.id());
        processes.len() >= 3
    });
    send(child.id(), Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
    all_gone(&processes);
}

fn three_requests_to_end_do_what_one_does_not() {
    let mut child = running("trap '' TERM;");
    let processes = components(&child);
    for _ in 0..3 {
        send(child.id(), Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    all_gone(&processes);
}

/// Runs a shell command that ends its machine.
fn end_by(script: &str) -> End {
    let machine = machine("host");
    let mut child = machine.command("sh").args(["-c", script]).spawn().unwrap();
    let end = machine.wait().unwrap();
    assert!(child.wait().is_err(), "the command outlived its machine");
    end
}

fn a_guest_that_powers_off_ends_the_machine() {
    assert_eq!(
        end_by("echo o > /proc/sysrq-trigger; sleep 60"),
        End::PowerOff
    );
}

fn a_guest_that_reboots_ends_the_machine() {
    assert_eq!(end_by("echo b > /proc/sysrq-trigger; sleep 60"), End::Reset);
}

fn a_guest_that_panics_ends_the_machine() {
    assert_eq!(end_by("echo c > /proc/sysrq-trigger; sleep 60"), End::Panic);
    // To the command line it is a machine that ended before its command.
    let script = "echo c > /proc/sysrq-trigger; sleep 60";
    fails(
        &["host", "--", "sh", "-c", script],
        125,
        &["guest", "panic"],
    );
}

fn a_vmm_that_is_killed_is_named() {
    let child = running("");
    let processes = components(&child);
    let mut vmms = processes.iter().filter(|p| p.1.starts_with("crumble-vmm"));
    let (pid, _) = vmms.next().unwrap();
    send(*pid, Signal::SIGKILL);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("SIGKILL"), "{errors}");
    all_gone(&processes);
}

/// The process of `child`'s machine whose title begins with `title`.
fn process_of(child: &Child, title: &str) -> Option<Pid> {
    let processes = components(child);
    let (pid, _) = processes.iter().find(|p| p.1.starts_with(title))?;
    Some(Pid::from_raw(i32::try_from(*pid).ok()?))
}

fn a_device_that_stands_still_is_replaced() {
    const TITLES: [&str; 2] = ["crumble-dev-vsock", "crumble-dev-fs"];
    let mut child = run([
        "-i",
        "busybox",
        "--",
        "sh",
        "-c",
        "cat; ls / > /dev/null && exit 9",
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut echo = |line: &[u8; 6]| {
        stdin.write_all(line).unwrap();
        let mut back = [0; 6];
        stdout.read_exact(&mut back).unwrap();
        assert_eq!(&back, line);
    };
    echo(b"first\n");
    let devices = TITLES.map(|title| process_of(&child, title).unwrap());
    for device in devices {
        kill(device, Signal::SIGSTOP).unwrap();
    }
    // It comes back when somebody else has taken it on.
    echo(b"again\n");
    eventually("one stands still", || {
        TITLES
            .iter()
            .zip(devices)
            .all(|(title, device)| process_of(&child, title).is_some_and(|now| now != device))
    });
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn a_vsock_device_that_is_killed_is_not_noticed() {
    const TITLE: &str = "crumble-dev-vsock";
    /// As many deaths as are borne within ten seconds.
    const KILLS: usize = 5;
    let mut child = run(["-i", "busybox", "--", "sh", "-c", "cat; exit 9"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut line = [0; 4096];
    let mut echo = |number: usize| {
        let sent = format!("{number:>4095}\n");
        stdin.write_all(sent.as_bytes()).unwrap();
        stdout.read_exact(&mut line).unwrap();
        assert_eq!(line, sent.as_bytes());
    };
    echo(0);
    for life in 1..=KILLS {
        let device = process_of(&child, TITLE).unwrap();
        kill(device, Signal::SIGKILL).unwrap();
        for number in 0..20 {
            echo(life * 100 + number);
        }
        assert_ne!(process_of(&child, TITLE), Some(device));
    }
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn the_power_button_reaches_the_guest_s_kernel() {
    let machine = machine("host");
    let say = |script: &str| {
        let output = machine.command("sh").args(["-c", script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // What it reports by is the generic event device of the ACPI tables.
    let count = || {
        let line = say("grep ACPI:Ged /proc/interrupts");
        let count = line.split_whitespace().nth(1).map(str::parse::<u32>);
        count
            .unwrap_or_else(|| panic!("no event device: {line}"))
            .unwrap()
    };
    assert!(
        say("cat /sys/bus/acpi/devices/*/hid").contains("PNP0C0C"),
        "there is a button"
    );
    let before = count();
    machine.power_button().unwrap();
    eventually("the guest is interrupted once", || count() == before + 1);
    machine.shutdown().unwrap();
}
