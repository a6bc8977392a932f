//! Directories of the host in the guest.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
};

use crate::support::{
    eventually, fails, fails_of, output, programs, stdout, stdout_of, tests, up, waiting,
};

tests![
    two_thousand_files_are_read_and_written,
    owners_and_modes_are_kept,
    every_kind_of_change_arrives,
    a_read_only_share_refuses_writes,
    several_shares_are_told_apart,
    nothing_outside_a_share_is_reached,
    the_root_forgets_what_is_written,
    a_share_at_etc_names_the_guest_and_stays_as_it_is,
    a_volume_is_kept_until_it_is_removed,
];

fn share(directory: &tempfile::TempDir, options: &str) -> String {
    format!("{}:/share{options}", directory.path().display())
}

/// The arguments of a run of `script` in a share.
const fn in_share<'a>(share: &'a str, script: &'a str) -> [&'a str; 9] {
    [
        "-v", share, "-w", "/share", "host", "--", "sh", "-c", script,
    ]
}

fn two_thousand_files_are_read_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in");
    fs::create_dir(&input).unwrap();
    for number in 0..2_000 {
        fs::write(input.join(format!("{number}")), format!("file {number}\n")).unwrap();
    }
    // One process that reads each file and writes it under another name.
    // Then all are removed while they are listed, on a host's file system that counts names.
    let script = "mkdir out && cd in && cp -r . ../out && ls | wc -l && cd .. && \
        perl -e 'opendir D, \"in\"; while ($_ = readdir D) { unlink \"in/$_\" } rmdir \"in\" or die $!'";
    assert_eq!(
        stdout(&in_share(&share(&directory, ""), script)).trim(),
        "2000"
    );
    let output = directory.path().join("out");
    for number in 0..2_000 {
        let text = fs::read_to_string(output.join(format!("{number}"))).unwrap();
        assert_eq!(text, format!("file {number}\n"));
    }
    assert!(!input.exists());
}

fn owners_and_modes_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("theirs");
    fs::write(&file, "x").unwrap();
    std::os::unix::fs::chown(&file, Some(1234), Some(2345)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    let script = "stat -c '%u %g %a' theirs; touch ours; chown 77:88 ours; chmod 2640 ours";
    assert_eq!(
        stdout(&in_share(&share(&directory, ""), script)),
        "1234 2345 4751\n"
    );
    let ours = fs::metadata(directory.path().join("ours")).unwrap();
    assert_eq!(
        (ours.uid(), ours.gid(), ours.mode() & 0o7777),
        (77, 88, 0o2640)
    );
}

fn every_kind_of_change_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("old"), "content").unwrap();
    fs::write(path("gone"), "x").unwrap();
    fs::create_dir(path("empty")).unwrap();
    let script = "mv old new && rm gone && rmdir empty && mkdir made && ln new made/hard \
        && ln -s ../new made/soft && mkfifo pipe && truncate -s 3 new && fallocate -l 8192 room \
        && touch -d @86400 new && dd if=/dev/zero of=synced bs=1k count=3 conv=fsync 2>/dev/null \
        && mv -T made moved && chmod 640 synced && sync -f synced && cat moved/soft";
    assert_eq!(stdout(&in_share(&share(&directory, ""), script)), "con");
    for gone in ["old", "gone", "empty", "made"] {
        assert!(!path(gone).exists(), "{gone}");
    }
    let new = fs::metadata(path("new")).unwrap();
    assert_eq!((new.nlink(), new.len(), new.mtime()), (2, 3, 86400));
    assert_eq!(fs::metadata(path("moved/hard")).unwrap().ino(), new.ino());
    let target = fs::read_link(path("moved/soft")).unwrap();
    assert_eq!(target.to_str(), Some("../new"));
    let pipe = fs::symlink_metadata(path("pipe")).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&pipe));
    assert_eq!(fs::metadata(path("room")).unwrap().len(), 8192);
    let synced = fs::metadata(path("synced")).unwrap();
    assert_eq!((synced.len(), synced.mode() & 0o777), (3072, 0o640));
}

fn a_read_only_share_refuses_writes() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "x").unwrap();
    let script = "cat file; mount -o remount,rw /share; echo y > file || echo y > new";
    let output = output(&in_share(&share(&directory, ":ro"), script));
    assert!(!output.status.success());
    assert_eq!(output.stdout, b"x");
    assert_eq!(
        fs::read_to_string(directory.path().join("file")).unwrap(),
        "x"
    );
    assert!(!directory.path().join("new").exists());
}

fn several_shares_are_told_apart() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(one.path().join("name"), "one").unwrap();
    fs::write(two.path().join("name"), "two").unwrap();
    let first = format!("{}:/a/deep/path", one.path().display());
    let second = format!("{}:/b:ro", two.path().display());
    let arguments = [
        "-v",
        &first,
        "-v",
        &second,
        "host",
        "--",
        "cat",
        "/a/deep/path/name",
        "/b/name",
    ];
    assert_eq!(stdout(&arguments), "onetwo");
}

fn nothing_outside_a_share_is_reached() {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(outer.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(outer.path().join("secret"), inner.join("link")).unwrap();
    let share = format!("{}:/share", inner.display());
    // The link's target is looked up in the guest, whose root is the host's but for this file's
    // directory being somewhere the guest has its own tmpfs on; ".." of the share is the guest's.
    let script = "cat /share/../secret /share/link; ls /share/..";
    let output = output(&["-v", &share, "busybox", "--", "sh", "-c", script]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("secret"), "{text}");
}

fn the_root_forgets_what_is_written() {
    let name = format!("/var/tmp/crumble-e2e-{}", std::process::id());
    let script = format!("echo x > {name} && cat {name}");
    assert_eq!(stdout(&["host", "--", "sh", "-c", &script]), "x\n");
    assert!(!fs::exists(&name).unwrap());
    fails(&["host", "--", "cat", &name], 1, &[&name]);
}

fn a_share_at_etc_names_the_guest_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, "192.0.2.1 other").unwrap();
    let share = format!("{}:/etc", directory.path().display());
    let arguments = ["-v", &share, "--hostname", "guest", "busybox", "--"];
    let text = stdout(&[&arguments[..], &["cat", "/etc/hosts"]].concat());
    for line in [
        "192.0.2.1 other\n",
        "127.0.0.1\tlocalhost\n",
        "10.0.2.15\tguest\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(fs::read_to_string(&hosts).unwrap(), "192.0.2.1 other");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
}

fn a_volume_is_kept_until_it_is_removed() {
    let home = tempfile::tempdir().unwrap();
    let crumble = |arguments: &[&str]| {
        let mut command = Command::new(programs().join("crumble"));
        command.args(arguments).env("XDG_DATA_HOME", home.path());
        command.stdin(Stdio::null());
        command
    };
    let sh = |volume: &str, script: &str| {
        let options = ["run", "--network=none", "--volume", volume, "busybox"];
        crumble(&[&options[..], &["--", "sh", "-c", script]].concat())
    };
    stdout_of(sh(
        "data:/data",
        "echo kept > /data/file; chown 7:8 /data/file",
    ));
    let look = "cat /data/file; stat -c %u:%g /data/file; touch /data/new || echo no";
    assert_eq!(stdout_of(sh("data:/data:ro", look)), "kept\n7:8\nno\n");
    assert_eq!(stdout_of(crumble(&["volume", "ls"])), "data\n");

    let machine = up(sh("data:/data", &waiting("")));
    fails_of(crumble(&["volume", "rm", "data"]), 125, &["data", "in use"]);
    // Several may have it.
    assert_eq!(stdout_of(sh("data:/data", "cat /data/file")), "kept\n");
    let mut machine = machine;
    machine.kill().unwrap();
    machine.wait().unwrap();
    eventually("it is still in use", || {
        crumble(&["volume", "rm", "data"])
            .output()
            .unwrap()
            .status
            .success()
    });
    assert_eq!(stdout_of(crumble(&["volume", "ls"])), "");
    fails_of(crumble(&["volume", "rm", "data"]), 125, &["no volume data"]);
}
