//! What `crumble inspect` says of machines that run.

use std::{
    fs,
    io::{Write, stderr},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Output},
};

use crumble::host;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    support::{output, programs, running, tests, up, waiting},
    users::{ORDINARY, ordinary_home, run_as_ordinary},
};

tests![
    every_process_of_a_machine_is_jailed_as_its_policy_says,
    every_component_is_in_a_group_with_limits,
    machines_are_listed_while_they_run,
    an_ordinary_user_inspects_machines,
];

/// `crumble inspect` with these arguments.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(programs().join("crumble"));
    command.arg("inspect").args(arguments);
    command
}

fn inspect(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn inspect_as_ordinary(arguments: &[&str]) -> Output {
    let mut command = command(arguments);
    command.uid(ORDINARY).gid(ORDINARY).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("{error}: {errors}")
    })
}

fn end(mut machine: Child) {
    let pid = i32::try_from(machine.id()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    machine.wait().unwrap();
}

fn every_process_of_a_machine_is_jailed_as_its_policy_says() {
    let machine = running("");
    let pid = machine.id().to_string();
    let output = inspect(&["--json", &pid]);
    let report = json(&output);
    let processes = report["processes"].as_array().unwrap();
    assert_eq!(processes[0]["role"], "supervisor");
    for name in ["vmm", "dev-fs", "dev-vsock", "dev-net", "dialer"] {
        let named = |one: &&Value| one["expected"]["component"] == name;
        let one = processes.iter().find(named).expect(name);
        is_jailed(name, one);
    }
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    // The same for people, by the number of a component.
    let vmm = processes[1]["process"]["pid"].to_string();
    let output = inspect(&[&vmm]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.ends_with("Nothing that was judged falls short of its policy.\n"));
    assert!(!text.contains("not visible"), "{text}");
    assert_eq!(output.status.code(), Some(0));
    end(machine);
}

#[track_caller]
fn is_jailed(name: &str, one: &Value) {
    let process = &one["process"];
    assert_eq!(one["findings"], Value::Array(Vec::new()), "{name}");
    assert_eq!(one["not_judged"], Value::Array(Vec::new()), "{name}");
    assert_eq!(process["rights"]["seccomp"], 2, "{name}");
    assert_eq!(process["rights"]["no_new_privs"], true, "{name}");
    for namespace in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let own = &process["namespaces"][namespace]["own"];
        let shared = one["expected"]["shared"].as_array().unwrap();
        let is_shared = shared.contains(&Value::from(namespace));
        assert_eq!(own, !is_shared, "{name}: {namespace}");
    }
    assert!(process["files"]["socket"].as_u64() >= Some(1), "{process}");
    assert!(process["private_bytes"].as_u64() > Some(0), "{process}");
}

fn every_component_is_in_a_group_with_limits() {
    let place = |finding: host::Finding| (finding.what == "cgroups").then_some(finding);
    let finding = host::examine().into_iter().find_map(place).unwrap();
    if finding.verdict != host::Verdict::Good {
        let _ = writeln!(
            stderr(),
            "nothing to see without cgroups: {}",
            finding.detail
        );
        return;
    }
    let machine = running("");
    let pid = machine.id().to_string();
    let report = json(&inspect(&["--json", &pid]));
    let mut groups = Vec::new();
    for one in report["processes"].as_array().unwrap() {
        let group = &one["process"]["cgroup"];
        let directory = PathBuf::from(group["directory"].as_str().unwrap());
        if one["role"] == "supervisor" {
            continue;
        }
        for file in ["memory.max", "pids.max"] {
            let limit: u64 = group["limits"][file].as_str().unwrap().parse().unwrap();
            assert!(limit > 0, "{group}");
        }
        groups.push(directory);
    }
    // One each, side by side.
    let machines_group = groups[0].parent().unwrap();
    // The VMM, the root's device, vsock's, the network's and its dialer.
    assert_eq!(groups.len(), 5);
    assert!(
        groups
            .iter()
            .all(|group| group.parent() == Some(machines_group))
    );
    let quota = fs::read_to_string(machines_group.join("cpu.max")).unwrap();
    // One CPU for the vCPU, and one for each process beside the VMM.
    assert_eq!(quota, "500000 100000\n");
    // A supervisor that is killed cannot clean up; the next one does.
    end(machine);
    assert!(machines_group.exists());
    assert_eq!(output(&["busybox", "--", "true"]).status.code(), Some(0));
    let left = fs::read_dir(machines_group.parent().unwrap()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().starts_with("crumble-")),
        "{left:?}"
    );
}

fn machines_are_listed_while_they_run() {
    let machine = running("");
    let listed = json(&inspect(&["--json"]));
    let has = |listed: &Value, pid: u32| {
        let machines = listed.as_array().unwrap();
        machines.iter().any(|machine| machine["pid"] == pid)
    };
    let pid = machine.id();
    assert!(has(&listed, pid), "{listed:#}");
    end(machine);
    assert!(!has(&json(&inspect(&["--json"])), pid));
    // It is gone, and this test has no machine.
    assert_eq!(inspect(&[&pid.to_string()]).status.code(), Some(125));
    let own = std::process::id().to_string();
    let output = inspect(&[&own]);
    assert_eq!(output.status.code(), Some(125));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("holds no machine"), "{errors}");
}

fn an_ordinary_user_inspects_machines() {
    let roots = running("");
    let output = inspect_as_ordinary(&[&roots.id().to_string()]);
    let text = String::from_utf8_lossy(&output.stdout);
    // Root's machine is judged by what everybody may see.
    assert!(text.contains("not visible to you"), "{text}");
    assert!(text.contains("mode 2 (filter)"), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
    end(roots);
    let home = ordinary_home();
    let script = waiting("");
    let own = up(run_as_ordinary(&home, &["host", "--", "sh", "-c", &script]));
    let output = inspect_as_ordinary(&[&own.id().to_string()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("dev-fs, pid"), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
    end(own);
}
