//! Machines as a recorded `/proc` shows them, without one that runs.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use inspect::{Error, Finding, HIDDEN, Inspection, Proc, Process, Role, inspect, machines};
use tempfile::TempDir;

const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// A `/proc` with one machine: process 100 holds it, 101 is the VMM, 102 the vsock device.
struct Recording(TempDir);

/// What Linux 6.1 writes about a jailed component.
const STATUS: &str = "\
Name:\tvmm
State:\tS (sleeping)
Uid:\t1879048293\t1879048293\t1879048293\t1879048293
Gid:\t1879048293\t1879048293\t1879048293\t1879048293
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t2
";

const FREE: &str = "\
Name:\tcrumble
State:\tS (sleeping)
Uid:\t0\t0\t0\t0
Gid:\t0\t0\t0\t0
CapInh:\t0000000000000000
CapPrm:\t000001ffffffffff
CapEff:\t000001ffffffffff
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t0
Seccomp:\t0
Seccomp_filters:\t0
";

const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max core file size        0                    0                    bytes     
Max processes             32                   32                   processes 
Max open files            1024                 1024                 files     
Max locked memory         0                    0                    bytes     
Max msgqueue size         0                    0                    bytes     
Max realtime priority     0                    0                              
";

const SMAPS: &str = "\
Rss:                2048 kB
Private_Clean:       100 kB
Private_Dirty:       412 kB
";

impl Recording {
    fn new() -> Self {
        let recording = Self(tempfile::tempdir().unwrap());
        fs::write(recording.0.path().join("uptime"), "1000.25 900.00\n").unwrap();
        recording.namespaces("self", 0);
        recording.process(100, 1, b"crumble\0run\0host\0", "crumble", FREE, 0);
        let title = b"crumble-vmm: vmm\0";
        recording.process(101, 100, title, "crumble-vmm", STATUS, 100);
        let title = b"crumble-dev-vsock: vsock\0";
        recording.process(102, 100, title, "crumble-dev-vsock", STATUS, 200);
        recording
    }

    fn proc(&self) -> Proc {
        Proc::at(self.0.path())
    }

    fn inspect(&self) -> Inspection {
        inspect(&self.proc(), 100).unwrap()
    }

    fn path(&self, pid: u32, file: &str) -> PathBuf {
        self.0.path().join(pid.to_string()).join(file)
    }

    /// Writes what `/proc` has of a process, whose namespaces are the host's and `apart`.
    fn process(
        &self,
        pid: u32,
        parent: u32,
        title: &[u8],
        program: &str,
        status: &str,
        apart: u64,
    ) {
        for directory in ["attr", "fd", &format!("task/{pid}")] {
            fs::create_dir_all(self.path(pid, directory)).unwrap();
        }
        let stat = format!("{pid} (x) S {parent} {}42000 0 0\n", "0 ".repeat(17));
        let write = |file: &str, text: &[u8]| fs::write(self.path(pid, file), text).unwrap();
        write("stat", stat.as_bytes());
        write("cmdline", title);
        write("status", status.as_bytes());
        write(&format!("task/{pid}/status"), status.as_bytes());
        write("limits", LIMITS.as_bytes());
        write("smaps_rollup", SMAPS.as_bytes());
        write("uid_map", b"         0 1879048293          1\n");
        write("attr/current", b"unconfined\n");
        symlink(Path::new("/opt").join(program), self.path(pid, "exe")).unwrap();
        for (number, target) in ["/dev/null", "socket:[7]", "socket:[8]"].iter().enumerate() {
            symlink(target, self.path(pid, &format!("fd/{number}"))).unwrap();
        }
        self.namespaces(&pid.to_string(), apart);
    }

    fn namespaces(&self, process: &str, apart: u64) {
        let directory = self.0.path().join(process).join("ns");
        fs::create_dir_all(&directory).unwrap();
        for (index, name) in (0..).zip(NAMESPACES) {
            // No component has a time namespace of its own.
            let apart = if name == "time" { 0 } else { apart };
            let target = format!("{name}:[{}]", 4_026_531_834 + index + apart);
            symlink(target, directory.join(name)).unwrap();
        }
    }

    /// Replaces `from` in a file of a process.
    fn change(&self, pid: u32, file: &str, from: &str, to: &str) {
        let path = self.path(pid, file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }
}

/// The findings, but of Landlock: the kernel that runs this test may have none.
fn found(inspection: &Inspection) -> Vec<(&Process, &Finding)> {
    let findings = inspection.findings();
    findings
        .filter(|(_, finding)| finding.what != "landlock")
        .collect()
}

/// The only finding about process `pid`, and none about others.
#[track_caller]
fn only(inspection: &Inspection, pid: u32) -> (&'static str, String) {
    let findings = found(inspection);
    let [(process, finding)] = findings.as_slice() else {
        panic!("{findings:?}")
    };
    assert_eq!(process.pid, pid);
    (finding.what, finding.detail.clone())
}

#[test]
fn a_machine_whose_components_are_jailed_has_no_finding() {
    let recording = Recording::new();
    let inspection = recording.inspect();
    let roles: Vec<_> = inspection.processes.iter().map(|one| one.role).collect();
    assert_eq!(roles, [Role::Supervisor, Role::Component, Role::Component]);
    assert_eq!(found(&inspection), []);
}

#[test]
fn a_machine_is_found_by_any_of_its_processes() {
    let recording = Recording::new();
    assert_eq!(
        inspect(&recording.proc(), 101).unwrap(),
        recording.inspect()
    );
    assert!(matches!(inspect(&recording.proc(), 7), Err(Error::Gone(7))));
    recording.process(200, 1, b"sleep\0", "sleep", FREE, 0);
    let refused = inspect(&recording.proc(), 200);
    assert!(matches!(refused, Err(Error::NoMachine(200))));
}

#[test]
fn machines_are_listed_by_user() {
    let recording = Recording::new();
    let listed = machines(&recording.proc(), None).unwrap();
    let [machine] = listed.as_slice() else {
        panic!("{listed:?}")
    };
    assert_eq!(machine.pid, 100);
    assert_eq!(machine.title, "crumble run host");
    assert_eq!(machine.age_seconds.read(), Some(&580));
    assert_eq!(machines(&recording.proc(), Some(0)).unwrap(), listed);
    assert_eq!(machines(&recording.proc(), Some(1)).unwrap(), []);
}

#[test]
fn what_is_missing_of_a_jail_is_found() {
    let cases = [
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "no_new_privs"),
        ("Seccomp:\t2", "Seccomp:\t0", "seccomp"),
        ("Seccomp_filters:\t2", "Seccomp_filters:\t1", "seccomp"),
        (
            "CapBnd:\t0000000000000000",
            "CapBnd:\t0000000000000001",
            "capability",
        ),
        ("Uid:\t1879048293", "Uid:\t0", "identity"),
    ];
    for (from, to, what) in cases {
        let recording = Recording::new();
        recording.change(101, "status", from, to);
        assert_eq!(only(&recording.inspect(), 101).0, what);
    }
    let recording = Recording::new();
    let free = "Max open files            1024                 4096";
    let tight = "Max open files            1024                 1024";
    recording.change(101, "limits", tight, free);
    let (what, detail) = only(&recording.inspect(), 101);
    assert_eq!((what, detail.contains("nofile is 4096")), ("limit", true));
}

#[test]
fn a_thread_without_its_filter_is_found() {
    let recording = Recording::new();
    fs::create_dir(recording.path(102, "task/105")).unwrap();
    let status = STATUS.replace("Seccomp:\t2", "Seccomp:\t0");
    fs::write(recording.path(102, "task/105/status"), status).unwrap();
    let inspection = recording.inspect();
    assert_eq!(inspection.processes[2].process.threads, 2);
    let (what, detail) = only(&inspection, 102);
    assert_eq!((what, detail.contains("further thread")), ("seccomp", true));
}

#[test]
fn an_inherited_filter_stands_in_for_none() {
    let recording = Recording::new();
    // As in a container; both components still have two.
    recording.change(100, "status", "Seccomp_filters:\t0", "Seccomp_filters:\t1");
    let inspection = recording.inspect();
    let found: Vec<_> = found(&inspection).iter().map(|one| one.1.what).collect();
    assert_eq!(found, ["seccomp", "seccomp"]);
}

#[test]
fn a_namespace_that_is_not_its_own_is_found() {
    let recording = Recording::new();
    let set = |pid, target| {
        let link = recording.path(pid, "ns/net");
        fs::remove_file(&link).unwrap();
        symlink(target, link).unwrap();
    };
    let holders = fs::read_link(recording.path(100, "ns/net")).unwrap();
    set(101, holders);
    assert_eq!(only(&recording.inspect(), 101).1, "net is its supervisor's");
    // Both components in one.
    let other = fs::read_link(recording.path(102, "ns/net")).unwrap();
    set(101, other);
    let inspection = recording.inspect();
    let found = found(&inspection);
    let found: Vec<_> = found.iter().map(|(process, _)| process.pid).collect();
    assert_eq!(found, [101, 102]);
}

#[test]
fn a_namespace_that_the_policy_shares_is_no_finding_and_others_of_it_are() {
    let recording = Recording::new();
    let title = b"crumble-dialer: net\0";
    recording.process(103, 100, title, "crumble-dialer", STATUS, 300);
    let share = |name: &str| {
        let link = recording.path(103, "ns").join(name);
        fs::remove_file(&link).unwrap();
        let holders = fs::read_link(recording.path(100, "ns").join(name)).unwrap();
        symlink(holders, link).unwrap();
    };
    share("net");
    let inspection = recording.inspect();
    let found = found(&inspection);
    let namespaces = found.iter().filter(|(_, one)| one.what == "namespace");
    assert_eq!(namespaces.count(), 0, "{found:?}");
    let dialer = inspection.processes.last().unwrap();
    assert_eq!(dialer.expected.as_ref().unwrap().shared, ["net"]);
    share("ipc");
    let inspection = recording.inspect();
    let found = inspection.findings().map(|(_, one)| one.detail.as_str());
    assert!(
        found
            .collect::<Vec<_>>()
            .contains(&"ipc is its supervisor's")
    );
}

#[test]
fn a_title_that_names_another_component_is_found() {
    let recording = Recording::new();
    let title = "crumble-dev-fs: fs-root\x1b[2J";
    fs::write(recording.path(102, "cmdline"), title).unwrap();
    let inspection = recording.inspect();
    assert_eq!(only(&inspection, 102).0, "title");
    // The machine is found even if all of its titles are gone.
    fs::write(recording.path(101, "cmdline"), "").unwrap();
    assert_eq!(machines(&recording.proc(), None).unwrap().len(), 1);
    // It is compared with the policy of what it is.
    let one = inspection.processes.last().unwrap();
    assert_eq!(one.expected.as_ref().unwrap().component, "dev-vsock");
    assert_eq!(one.process.title, "crumble-dev-fs: fs-root\\u{1b}[2J");
}

#[test]
fn a_process_that_a_component_started_is_found() {
    let recording = Recording::new();
    recording.process(103, 101, b"sh\0", "sh", STATUS, 100);
    assert_eq!(only(&recording.inspect(), 103).0, "process");
}

#[test]
fn what_a_component_has_is_written_as_json() {
    let recording = Recording::new();
    let json = serde_json::to_value(recording.inspect()).unwrap();
    let component = &json["processes"][1];
    assert_eq!(component["role"], "component");
    assert_eq!(component["process"]["private_bytes"], 512 << 10);
    assert_eq!(component["process"]["files"]["socket"], 2);
    assert_eq!(component["process"]["namespaces"]["mnt"]["own"], true);
    assert_eq!(component["process"]["namespaces"]["time"]["own"], false);
    assert_eq!(component["process"]["rights"]["seccomp"], 2);
    assert_eq!(component["expected"]["limits"]["nofile"], 1024);
    let hidden = serde_json::to_value(inspect::Field::<u32>::Hidden).unwrap();
    assert_eq!(hidden, HIDDEN);
}

#[test]
fn nonsense_instead_of_texts_is_survived() {
    let recording = Recording::new();
    for file in [
        "status",
        "limits",
        "smaps_rollup",
        "uid_map",
        "task/101/status",
    ] {
        fs::write(
            recording.path(101, file),
            b"\xff:\0\n::\nUid:\t9999999999999\n",
        )
        .unwrap();
    }
    let inspection = recording.inspect();
    let vmm = inspection.processes.get(1).unwrap();
    assert!(vmm.verdict.not_judged.contains(&"limits"));
    // A process whose line cannot be read is none.
    fs::write(recording.path(101, "stat"), "101 (x").unwrap();
    assert_eq!(recording.inspect().processes.len(), 2);
}
