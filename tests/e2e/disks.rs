//! Files of the host as disks.

use std::{fs, io::Read, path::PathBuf, process::Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    layout::{Layer, Layout},
    support::{fails, run, stdout, tests},
};

tests![
    what_is_written_to_a_disk_is_in_its_file,
    disks_come_in_their_order_before_the_image_s,
    a_disk_that_is_read_only_is_not_written,
    a_disk_is_one_writer_s,
    what_is_no_disk_is_refused_with_the_reason,
];

/// Files with these contents, each 64 KiB.
fn disks(contents: &[&str]) -> (TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let make = |(index, content): (usize, &&str)| {
        let path = directory.path().join(index.to_string());
        fs::write(&path, content).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(64 << 10).unwrap();
        path
    };
    let paths = contents.iter().enumerate().map(make).collect();
    (directory, paths)
}

fn what_is_written_to_a_disk_is_in_its_file() {
    let (_directory, paths) = disks(&[""]);
    let disk = paths[0].to_str().unwrap();
    let script = "printf 'from the guest' > /dev/vda; sync; blockdev --getsize64 /dev/vda";
    let text = stdout(&["--disk", disk, "busybox", "--", "sh", "-c", script]);
    assert_eq!(text, "65536\n");
    let bytes = fs::read(&paths[0]).unwrap();
    assert!(bytes.starts_with(b"from the guest\0"));
    assert_eq!(bytes.len(), 64 << 10);
    let script = "head -c 14 /dev/vda";
    let text = stdout(&["--disk", disk, "busybox", "--", "sh", "-c", script]);
    assert_eq!(text, "from the guest");
}

fn disks_come_in_their_order_before_the_image_s() {
    let (_directory, paths) = disks(&["first", "other"]);
    let layout = Layout::new([Layer::busybox()], &json!({}));
    let disk = format!("{}:ro", paths[1].display());
    let text = stdout(&[
        "--disk",
        paths[0].to_str().unwrap(),
        "--disk",
        &disk,
        &layout.name(),
        "--",
        "sh",
        "-c",
        "head -c 5 /dev/vda; head -c 5 /dev/vdb; cat /sys/block/vd[ab]/serial",
    ]);
    assert_eq!(text, "firstotherdisk0disk1");
}

fn a_disk_that_is_read_only_is_not_written() {
    let (_directory, paths) = disks(&["as it was"]);
    let disk = format!("{}:ro", paths[0].display());
    let script = "cat /sys/block/vda/ro; echo x > /dev/vda; sync; echo $?";
    let text = stdout(&["--disk", &disk, "busybox", "--", "sh", "-c", script]);
    assert!(text.starts_with("1\n"), "{text}");
    assert!(fs::read(&paths[0]).unwrap().starts_with(b"as it was\0"));
}

fn a_disk_is_one_writer_s() {
    let (_directory, paths) = disks(&[""]);
    let disk = paths[0].to_str().unwrap();
    let mut first = run([
        "-i",
        "--disk",
        disk,
        "busybox",
        "--",
        "sh",
        "-c",
        "echo up; cat",
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut up = [0; 3];
    first.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    fails(
        &["--disk", disk, "busybox", "--", "true"],
        125,
        &["in use", disk],
    );
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
    assert_eq!(
        stdout(&["--disk", disk, "busybox", "--", "echo", "free"]),
        "free\n"
    );
}

fn what_is_no_disk_is_refused_with_the_reason() {
    let (directory, _) = disks(&[]);
    let there = format!("{}:ro", directory.path().display());
    fails(
        &["--disk", &there, "busybox", "--", "true"],
        125,
        &["regular file"],
    );
    let none = format!("{}/none", directory.path().display());
    fails(&["--disk", &none, "busybox", "--", "true"], 125, &["none"]);
}
