//! What the process has left once its jail is closed, that it is enough for its work as root and
//! as an ordinary user, and how it ends.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use jailer::Process;
use nix::libc::{EACCES, EPERM, O_RDWR};
use nix::unistd::geteuid;
use support::fuse::{FATTR_GID, FATTR_MODE, FATTR_UID, ROOT};
use support::{Device, End, Running, try_launch};
use tempfile::tempdir;

fn pid(device: &Device) -> i32 {
    process(&device.process).pid()
}

fn process(running: &Running) -> &Process {
    match running {
        Running::Jailed { process, .. } => process,
        Running::Free { .. } => panic!("not jailed"),
    }
}

/// The numbers of the policy's capabilities, as `/proc/PID/status` shows a set.
fn capabilities() -> String {
    let policy = policy::component("dev-fs").unwrap();
    let numbers = policy.capabilities.iter().map(|each| each.value.number());
    format!(
        "{:016x}",
        numbers.fold(0u64, |set, number| set | 1 << number)
    )
}

#[test]
fn every_thread_is_filtered_and_has_the_policys_capabilities() {
    let share = tempdir().unwrap();
    let device = Device::start(share.path(), "");
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", pid(&device))).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let has = |line: &str| assert!(status.lines().any(|l| l == line), "{line}: {status}");
        has("Seccomp:\t2");
        has("NoNewPrivs:\t1");
        has("CapInh:\t0000000000000000");
        has("CapAmb:\t0000000000000000");
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            has(&format!("{set}:\t{}", capabilities()));
        }
        threads += 1;
    }
    assert_eq!(
        threads, 5,
        "main, control, front-end, vhost-user, vring_worker"
    );
}

#[test]
fn its_namespaces_are_its_own_and_its_root_is_empty() {
    let share = tempdir().unwrap();
    let device = Device::start(share.path(), "");
    for name in ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_ne!(of(&pid(&device).to_string()), of("self"), "{name}");
    }
    let root = format!("/proc/{}/root", pid(&device));
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn of_the_hosts_files_it_holds_its_directory_and_those_that_the_guest_opened() {
    let share = tempdir().unwrap();
    fs::write(share.path().join("f"), "").unwrap();
    let mut device = Device::start(share.path(), "");
    let inode = device.lookup(ROOT, "f").unwrap().inode;
    device.open(inode, O_RDWR).unwrap();
    let own = format!("/{}/fd", pid(&device));
    for entry in fs::read_dir(format!("/proc/{}/fd", pid(&device))).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap();
        let text = target.to_string_lossy();
        let expected = text == "/dev/null"
            || ["socket:", "anon_inode:", "/memfd:"].iter().any(|kind| text.starts_with(kind))
            || text.ends_with(" (deleted)") && text.starts_with("/tmp/#") // The log.
            || own.ends_with(&*text) // A mount of its own: the path begins there.
            || text == "/"
            || target.starts_with(share.path());
        assert!(expected, "{text}");
    }
}

#[test]
fn closing_the_control_channel_ends_it_with_success() {
    let share = tempdir().unwrap();
    let mut device = Device::start(share.path(), "");
    if let Running::Jailed { control, .. } = &mut device.process {
        *control = None;
    }
    assert_eq!(device.wait_for_end(), Some(End { code: Some(0) }));
    assert_eq!(device.process.log(), "");
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused_with_the_reason() {
    let share = tempdir().unwrap();
    let (mut running, _stream, ready) = try_launch(share.path(), "ro,writeback");
    let error = ready.unwrap_err().to_string();
    assert!(error.contains("writeback needs a writable"), "{error}");
    assert_eq!(running.wait_for_end(), Some(End { code: Some(2) }));
}

/// As root files belong to whom the guest says; as an ordinary user they are the user's.
#[test]
fn what_the_guests_root_makes_belongs_to_whoever_started_the_device() {
    let share = tempdir().unwrap();
    let me = geteuid();
    let words = if me.is_root() { "" } else { "single=0" };
    let mut device = Device::start(share.path(), words);
    let (entry, handle) = device.create(ROOT, "f", O_RDWR, 0o100_640).unwrap();
    assert_eq!(device.write(entry.inode, handle, 0, b"x"), Ok(1));
    let directory = device.mkdir(ROOT, "d", 0o1775).unwrap();
    device.mknod(ROOT, "p", 0o010_600, 0).unwrap();
    device.symlink(ROOT, "l", "f").unwrap();
    assert_eq!((entry.uid, directory.uid), (0, 0), "as the guest sees it");
    for (name, mode) in [("f", 0o640), ("d", 0o1775), ("p", 0o600), ("l", 0o777)] {
        let metadata = fs::symlink_metadata(share.path().join(name)).unwrap();
        assert_eq!(metadata.uid(), me.as_raw(), "{name}");
        assert_eq!(metadata.gid(), nix::unistd::getegid().as_raw(), "{name}");
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
    }
    let inode = entry.inode;
    device
        .set_attributes(inode, FATTR_MODE, [0o4711, 0, 0], 0)
        .unwrap();
    let mode = fs::metadata(share.path().join("f"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o4711);
    let owner = FATTR_UID | FATTR_GID;
    device.set_attributes(inode, owner, [0, 0, 0], 0).unwrap();
    let given_away = device.set_attributes(inode, owner, [0, 1234, 1234], 0);
    device.uid = 1234;
    let by_another = device.create(ROOT, "g", O_RDWR, 0o100_640);
    if me.is_root() {
        assert_eq!(given_away.unwrap().uid, 1234);
        // The directory is root's alone, but that is for the guest's kernel to see to.
        assert_eq!(by_another, Err(EACCES));
    } else {
        assert_eq!(given_away, Err(EPERM));
        assert_eq!(by_another, Err(EACCES));
    }
}

#[test]
fn the_system_belongs_to_the_guests_root_and_the_users_files_to_the_user() {
    let mine = tempdir().unwrap();
    let me = geteuid().as_raw();
    let words = format!("ro,single={me}");
    let words = if me == 0 { "ro" } else { &words };
    let mut device = Device::start(Path::new("/"), words);
    let etc = device.lookup(ROOT, "etc").unwrap();
    assert_eq!((etc.uid, etc.gid), (0, 0));
    let passwd = device.lookup(etc.inode, "passwd").unwrap();
    assert_eq!((passwd.uid, passwd.gid, passwd.mode), (0, 0, 0o100_644));
    let handle = device.open(passwd.inode, 0).unwrap();
    let content = device.read(passwd.inode, handle, 0, 65_536).unwrap();
    assert_eq!(content, fs::read("/etc/passwd").unwrap());
    let mut inode = ROOT;
    let mut uid = u32::MAX;
    for name in mine.path().iter().skip(1) {
        let entry = device.lookup(inode, name.to_str().unwrap()).unwrap();
        (inode, uid) = (entry.inode, entry.uid);
    }
    assert_eq!(uid, me);
}

/// Root's own tests again as somebody who is not root, so that both are tested by one run.
#[test]
fn an_ordinary_user_can_start_it_and_is_served_too() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--test-threads=1"]);
    command.args([
        "what_the_guests_root_makes_belongs_to_whoever_started_the_device",
        "the_system_belongs_to_the_guests_root_and_the_users_files_to_the_user",
        "every_thread_is_filtered_and_has_the_policys_capabilities",
        "closing_the_control_channel_ends_it_with_success",
    ]);
    if geteuid().is_root() {
        command.uid(12_345).gid(12_345);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("4 passed; 0 failed"), "{text}");
}

#[test]
fn the_readme_lists_what_the_policy_allows_and_nothing_else() {
    let policy = policy::component("dev-fs").unwrap();
    let mut allowed: Vec<_> = policy
        .calls
        .iter()
        .filter(|call| call.value.error.is_none())
        .map(|call| call.value.name)
        .collect();
    allowed.sort_unstable();
    let readme = include_str!("../README.md");
    let list = |block: usize| -> Vec<&str> {
        let text = readme.split("```text\n").nth(block).unwrap();
        text.split("```")
            .next()
            .unwrap()
            .split_whitespace()
            .collect()
    };
    let text = allowed.join(" ");
    assert_eq!(list(2), allowed, "README.md should list:\n{text}");
    let kept: Vec<_> = policy
        .capabilities
        .iter()
        .map(|each| each.value.name())
        .collect();
    assert_eq!(list(1), kept, "README.md should list {kept:?}");
}
