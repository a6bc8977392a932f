//! The guest's memory, and the host's.

use std::fs;

use crumble::Machine;

use crate::support::{eventually, programs, tests};

tests![what_the_guest_frees_goes_back_to_the_host];

/// What the guest takes and frees, in MiB.
const TAKEN: u64 = 80;

/// Guest memory, in MiB, that the VMM's process has mapped: what was touched and was not given back.
fn mapped(machine: &Machine) -> u64 {
    let processes = machine.processes();
    let vmm = processes.iter().find(|process| process.name == "vmm");
    let path = format!("/proc/{}/status", vmm.unwrap().pid);
    let status = fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssShmem:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<u64>().unwrap() >> 10
}

fn what_the_guest_frees_goes_back_to_the_host() {
    let machine = Machine::builder("busybox".parse().unwrap())
        .programs(programs())
        .memory("256M".parse().unwrap())
        .free_page_reporting();
    let machine = machine.start().unwrap();
    let run = |script: &str| {
        let mut command = machine.command("sh");
        let status = command.args(["-c", script]).status().unwrap();
        assert!(status.success(), "{script}");
    };
    run("head -c 4000000 /dev/urandom > /tmp/kept && cp /tmp/kept /tmp/copy");
    let take = format!("dd if=/dev/zero of=/tmp/big bs=1M count={TAKEN} 2> /dev/null");
    run(&take);
    let most = mapped(&machine);
    assert!(most > TAKEN, "{most} MiB");
    run("rm /tmp/big");
    eventually("nothing was given back", || {
        mapped(&machine) + TAKEN / 2 < most
    });
    // It can be had again, and what was not free is as it was.
    run(&take);
    assert!(mapped(&machine) + TAKEN / 4 > most);
    run("cmp /tmp/kept /tmp/copy");
    machine.shutdown().unwrap();
}
