//! What the process has left once its jail is closed, that it is enough for its work as root and
//! as an ordinary user, and how it ends.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jailer::Process;
use nix::libc::{EACCES, EPERM, EROFS, O_RDWR};
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
    let Some(of_device) = inspect(&device) else {
        return;
    };
    for name in ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"] {
        let of = |process: &str| fs::read_link(format!("{process}/ns/{name}")).unwrap();
        assert_ne!(of(&of_device), of("/proc/self"), "{name}");
    }
    assert_eq!(fs::read_dir(of_device + "/root").unwrap().count(), 0);
}

#[test]
fn of_the_hosts_files_it_holds_its_directory_and_those_that_the_guest_opened() {
    let share = tempdir().unwrap();
    fs::write(share.path().join("f"), "").unwrap();
    let mut device = Device::start(share.path(), "");
    let inode = device.lookup(ROOT, "f").unwrap().inode;
    device.open(inode, O_RDWR).unwrap();
    let Some(of_device) = inspect(&device) else {
        return;
    };
    let mut names = std::collections::BTreeSet::new();
    for entry in fs::read_dir(of_device + "/fd").unwrap() {
        // One that it closed just now it does not hold.
        let Ok(target) = fs::read_link(entry.unwrap().path()) else {
            continue;
        };
        let text = target.to_string_lossy().into_owned();
        let kinds = ["socket:", "anon_inode:", "/memfd:", "/tmp/#", "/dev/null"];
        if !kinds.iter().any(|kind| text.starts_with(kind)) {
            names.insert(text);
        }
    }
    // Its working directory while it was being confined, and the root of each mount of its own:
    // its directory and that of its descriptors. Paths begin there, not at the host's root.
    assert_eq!(Vec::from_iter(names), ["/", "/f"]);
}

#[test]
fn nothing_leads_up_from_its_directory_and_a_read_only_one_cannot_be_changed() {
    let share = tempdir().unwrap();
    fs::write(share.path().join("f"), "").unwrap();
    let inode = fs::metadata(share.path()).unwrap().ino();
    for (words, read_only) in [("", false), ("ro", true)] {
        let device = Device::start(share.path(), words);
        let Some(of_device) = inspect(&device) else {
            return;
        };
        let directories = fs::read_dir(of_device + "/fd").unwrap();
        let directories = directories.map(|entry| entry.unwrap().path());
        let is_root = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.ino() == inode);
        let mut seen = 0;
        for root in directories.filter(is_root) {
            assert_eq!(fs::metadata(root.join("..")).unwrap().ino(), inode);
            assert!(
                !root
                    .join("../..")
                    .join(share.path().file_name().unwrap())
                    .exists()
            );
            // As the host's root, without Landlock or filters: it is the mount that refuses.
            let changed = fs::set_permissions(root.join("f"), fs::Permissions::from_mode(0o600));
            let error = changed.err().and_then(|error| error.raw_os_error());
            assert_eq!(error, read_only.then_some(EROFS));
            seen += 1;
        }
        assert!(seen > 0);
    }
}

/// The process's directory in `/proc`. Only the host's root can look into a jail; to the user who
/// started it, it is closed, which is checked instead.
fn inspect(device: &Device) -> Option<String> {
    let path = format!("/proc/{}", pid(device));
    if geteuid().is_root() {
        return Some(path);
    }
    let refused = fs::read_dir(path + "/fd").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    None
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
    let (mut running, _stream, ready) =
        try_launch(share.path(), "ro,writeback", &support::words::journal());
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
        assert_eq!(by_another.unwrap().0.uid, 1234);
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
    let mut listed = list(1);
    listed.sort_unstable();
    assert_eq!(listed, kept, "README.md should list {kept:?}");
}
