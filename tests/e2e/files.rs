//! Machines that files describe.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::{fails_of, programs, stdout_of, tests};

tests![
    a_machine_is_what_its_file_says,
    a_machine_of_a_file_runs_by_itself,
    what_is_wrong_with_a_file_is_shown_with_its_place,
];

/// `crumble`, with a machine's file after these arguments.
pub(crate) fn crumble(arguments: &[&str], file: &Path, command: &[&str]) -> Command {
    let mut crumble = Command::new(programs().join("crumble"));
    crumble
        .args(arguments)
        .arg(file)
        .args(command)
        .stdin(Stdio::null());
    crumble
}

/// A machine's file in a directory.
pub(crate) fn write(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("machine.toml");
    fs::write(&path, text).unwrap();
    path
}

const FILE: &str = r#"
image = "busybox"
command = ["sh", "-c", "echo $WHO; nproc; hostname; pwd; cat file; head -c 4 /dev/vda"]
env = { WHO = "somebody" }
workdir = "/src"
cpus = 2
memory = "256M"
network = "none"
hostname = "of-a-file"

[[share]]
host = "src"
guest = "/src"
read-only = true

[[disk]]
path = "disk.img"
read-only = true
"#;

fn a_machine_is_what_its_file_says() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    fs::create_dir(directory.join("src")).unwrap();
    fs::write(directory.join("src/file"), "of the host\n").unwrap();
    fs::write(directory.join("disk.img"), "disk".repeat(128)).unwrap();
    let file = write(directory, FILE);
    assert_eq!(stdout_of(crumble(&["validate"], &file, &[])), "");
    let text = stdout_of(crumble(&["up"], &file, &[]));
    assert_eq!(text, "somebody\n2\nof-a-file\n/src\nof the host\ndisk");
    // What is said on the command line counts more.
    let text = stdout_of(crumble(
        &["up", "-e", "WHO=another", "-w", "/"],
        &file,
        &["sh", "-c", "echo $WHO; pwd; touch /src/x || echo no"],
    ));
    assert_eq!(text, "another\n/\nno\n");
}

fn a_machine_of_a_file_runs_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let text = "image = 'busybox'\nnetwork = 'none'\nname = 'here'\ncommand = ['sleep', '1000']\n";
    let file = write(directory, text);
    let place = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(programs().join("crumble"));
        command
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", place.path());
        stdout_of(command)
    };
    assert_eq!(run(&["up", "-d", "machine.toml"]), "here\n");
    assert_eq!(run(&["exec", "here", "echo", "yes"]), "yes\n");
    run(&["kill", "here"]);
    // It is what the file says when it is started.
    fs::write(file, text.replace("1000", "0")).unwrap();
    run(&["start", "here"]);
    assert_eq!(run(&["wait", "here"]), "0\n");
}

fn what_is_wrong_with_a_file_is_shown_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "image = 'busybox'\ncpus = 0\n");
    let words = ["machine.toml", "line 2, column 8", "CPUs"];
    for verb in ["validate", "up"] {
        fails_of(crumble(&[verb], &file, &[]), 125, &words);
    }
    let missing = directory.path().join("none.toml");
    fails_of(
        crumble(&["validate"], &missing, &[]),
        125,
        &["none.toml", "No such file"],
    );
}
