//! What the process has left once its jail is closed, and that it is enough for its work.

mod guest;
mod jailed;

use std::fs;
use std::io::{Read, Write};

use dev_vsock::request::{Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use guest::{CID, PORT};
use jailed::{Process, launch};
use jailer::Exit;

fn ready() -> Process {
    let (process, ready) = launch(CID);
    ready.unwrap();
    process
}

/// A line of `/proc/PID/status`.
fn status(process: &Process, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", process.process.pid())).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

#[test]
fn it_filters_system_calls_and_has_no_capability_and_gains_none() {
    let process = ready();
    // SECCOMP_MODE_FILTER.
    assert_eq!(status(&process, "Seccomp"), "2");
    assert_eq!(status(&process, "NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(
            u64::from_str_radix(&status(&process, set), 16),
            Ok(0),
            "{set}"
        );
    }
}

#[test]
fn every_thread_is_in_the_jail() {
    let process = ready();
    let _guest = process.guest();
    let tasks = format!("/proc/{}/task", process.process.pid());
    let mut threads = 0;
    for task in fs::read_dir(tasks).unwrap() {
        let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(text.contains("Seccomp:\t2\n"), "{text}");
        assert!(text.contains("CapEff:\t0000000000000000\n"), "{text}");
        threads += 1;
    }
    assert!(threads >= 4, "{threads}");
}

#[test]
fn its_namespaces_are_its_own() {
    let process = ready();
    for name in ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_ne!(of(&process.process.pid().to_string()), of("self"), "{name}");
    }
}

#[test]
fn it_holds_no_descriptor_that_it_was_not_given() {
    let process = ready();
    let folder = format!("/proc/{}/fd", process.process.pid());
    for entry in fs::read_dir(folder).unwrap() {
        // One that it closed just now it does not hold.
        let Ok(target) = fs::read_link(entry.unwrap().path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        let expected = target == "/dev/null"
            || target == "/memfd:journal (deleted)"
            || target.starts_with("socket:")
            || target.starts_with("pipe:")
            || target.starts_with("anon_inode:");
        assert!(expected, "{target}");
    }
}

#[test]
fn its_root_is_empty() {
    let process = ready();
    let root = format!("/proc/{}/root", process.process.pid());
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn all_of_its_work_is_possible_in_the_jail() {
    let mut process = ready();
    let mut guest = process.guest();
    for round in 0..200 {
        let mut stream = process.connect(round);
        let (host_port, guest_port) = guest.accept();
        stream.write_all(&[1; 10_000]).unwrap();
        let mut left = 10_000;
        while left > 0 {
            left -= guest.expect(Op::Data).1.len();
        }
        guest.send_data(host_port, guest_port, &[2; 10_000]);
        stream.read_exact(&mut [0; 10_000]).unwrap();
        // A stream that stalls, and one that the guest refuses.
        guest.send_data(host_port, guest_port, &[3; 60_000]);
        guest.send_data(host_port, guest_port, &[3; 60_000]);
        guest.send_shutdown(host_port, guest_port, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
        guest.expect_reset_of(host_port);
        drop(stream);
        guest.connect(PORT, round);
        drop(process.accept());
        guest.send(Op::Reset, PORT, round);
        guest.settle();
        while guest.poll() {}
        guest.arrived.clear();
    }
    let mut guest = guest.reboot();
    // Nonsense in the ring makes it write to its log.
    guest.driver.queues[1].set_available_index(5000).unwrap();
    guest.driver.queues[1].kick_anyway().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(process.process.try_wait().unwrap(), None);
    guest.vanish();
    let (exit, log) = process.end();
    assert_eq!(exit, Exit::Code(0), "{log}");
    assert!(log.contains("until the driver resets it"), "{log}");
}

#[test]
fn the_readme_lists_what_the_policy_allows_and_nothing_else() {
    let policy = policy::component("dev-vsock").unwrap();
    let mut allowed: Vec<_> = policy
        .calls
        .iter()
        .filter(|call| call.value.error.is_none())
        .map(|call| call.value.name)
        .collect();
    allowed.sort_unstable();
    let readme = include_str!("../README.md");
    let block = readme.split("```text\n").nth(1).unwrap();
    let listed: Vec<_> = block
        .split("```")
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(
        listed,
        allowed,
        "README.md should list:\n{}",
        allowed.join(" ")
    );
    assert!(readme.contains("no capabilities") && policy.capabilities.is_empty());
    assert_eq!(policy.proc, None);
}
