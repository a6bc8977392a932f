//! Users: of the guest, and of the host.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::support::{run, stdout, tests};

tests![
    a_command_runs_as_the_user_that_was_asked_for,
    an_ordinary_user_runs_machines,
    an_ordinary_user_s_share_belongs_to_that_user,
];

/// A user of the host without any rights but /dev/kvm.
pub(crate) const ORDINARY: u32 = 1234;

fn a_command_runs_as_the_user_that_was_asked_for() {
    let script = "id -u; id -g";
    assert_eq!(
        stdout(&["-u", "12:34", "host", "--", "sh", "-c", script]),
        "12\n34\n"
    );
}

/// A home of an ordinary user, that is removed when this is dropped.
pub(crate) fn ordinary_home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(ORDINARY), Some(ORDINARY)).unwrap();
    // What root has fetched already need not be fetched again.
    copy_kernels(&home.path().join("crumblecracker"));
    home
}

/// `crumble run`, as an ordinary user.
pub(crate) fn run_as_ordinary(home: &TempDir, arguments: &[&str]) -> Command {
    let mut command = run(arguments);
    command.uid(ORDINARY).gid(ORDINARY).env("HOME", home.path());
    command.env("XDG_CACHE_HOME", home.path()).current_dir("/");
    command
}

/// Runs as an ordinary user to the end.
fn as_ordinary(arguments: &[&str]) -> Output {
    let home = ordinary_home();
    run_as_ordinary(&home, arguments).output().unwrap()
}

fn copy_kernels(cache: &std::path::Path) {
    let from = crumble::host::kernel_path().expect("a machine was run before");
    let kernels = from.parent().and_then(|path| path.parent()).unwrap();
    fs::create_dir_all(cache).unwrap();
    let copied = Command::new("cp").arg("-r").args([kernels, cache]).status();
    assert!(copied.unwrap().success());
    let owned = Command::new("chown")
        .args(["-R", &format!("{ORDINARY}:{ORDINARY}")])
        .arg(cache)
        .status();
    assert!(owned.unwrap().success());
}

fn an_ordinary_user_runs_machines() {
    let output = as_ordinary(&[
        "host",
        "--",
        "sh",
        "-c",
        "id -u; stat -c '%u %g' /etc/passwd",
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    // Root's files are the guest's root's, although the device cannot see whose they are.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n0 0\n");
}

fn an_ordinary_user_s_share_belongs_to_that_user() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(ORDINARY), Some(ORDINARY)).unwrap();
    let share = format!("{}:/share", directory.path().display());
    let script = "echo x > /share/made && stat -c '%u %g' /share/made";
    let output = as_ordinary(&["-v", &share, "host", "--", "sh", "-c", script]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0 0\n");
    let made = fs::metadata(directory.path().join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (ORDINARY, ORDINARY));
}
