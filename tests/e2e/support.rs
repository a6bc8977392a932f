//! What the tests share.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use crumble::Machine;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A test's name and its body.
pub(crate) type Test = (&'static str, fn());

/// Lists functions as tests of their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::support::Test] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use tests;

static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

/// Says, once, where the product's programs are.
pub(crate) fn set_programs(directory: PathBuf) {
    PROGRAMS.set(directory).expect("it is said once");
}

/// Where the product's programs are.
pub(crate) fn programs() -> &'static Path {
    PROGRAMS.get().expect("it is said before the first test")
}

/// A machine that runs `image`.
pub(crate) fn machine(image: &str) -> Machine {
    let builder = Machine::builder(image.parse().unwrap());
    builder.programs(programs()).start().unwrap()
}

/// `crumble run`, with these arguments.
pub(crate) fn run(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(programs().join("crumble"));
    command.arg("run").args(arguments).stdin(Stdio::null());
    command
}

/// A command that prints a line and waits, with its machine around it.
pub(crate) fn running(script: &str) -> Child {
    let script = waiting(script);
    up(run(["host", "--", "sh", "-c", &script]))
}

/// A shell's script that prints a line and waits.
pub(crate) fn waiting(script: &str) -> String {
    format!("{script} echo up; while :; do sleep 0.1; done")
}

/// Starts a command and reads the line.
pub(crate) fn up(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    if line != "up\n" {
        let output = child.wait_with_output().unwrap();
        panic!("{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    child
}

/// Runs `crumble run` with these arguments to its end.
pub(crate) fn output(arguments: &[&str]) -> Output {
    run(arguments).output().unwrap()
}

/// A shell's script in a namespace of its own: `$0` is `crumble`, `$1` and so on are `arguments`.
pub(crate) fn unshared(namespace: &str, script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args([namespace, "sh", "-c", script]);
    command.arg(programs().join("crumble")).args(arguments);
    command.stdin(Stdio::null());
    command
}

/// The standard output of a run that succeeds.
pub(crate) fn stdout(arguments: &[&str]) -> String {
    stdout_of(run(arguments))
}

/// The same of any command.
pub(crate) fn stdout_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    text
}

/// Asserts that a run fails with `code` and says all of `words` on standard error.
#[track_caller]
pub(crate) fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    fails_of(run(arguments), code, words);
}

/// The same of any command.
#[track_caller]
pub(crate) fn fails_of(mut command: Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    for word in words {
        assert!(errors.contains(word), "\"{word}\" is missing in: {errors}");
    }
}

/// The processes below `pid`, by their titles, itself included.
pub(crate) fn family(pid: u32) -> Vec<(u32, String)> {
    let all: Vec<(u32, u32, String)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| process(&entry.ok()?.path()))
        .collect();
    let mut family = vec![pid];
    let mut index = 0;
    while let Some(parent) = family.get(index).copied() {
        family.extend(all.iter().filter(|p| p.1 == parent).map(|p| p.0));
        index += 1;
    }
    let member = |process: &&(u32, u32, String)| family.contains(&process.0);
    let name = |(pid, _, title): &(u32, u32, String)| (*pid, title.clone());
    all.iter().filter(member).map(name).collect()
}

/// Number, parent's number and title of a process (proc_pid_stat(5)).
fn process(directory: &Path) -> Option<(u32, u32, String)> {
    let pid = directory.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
    let title = fs::read(directory.join("cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title).replace('\0', " ");
    Some((pid, parent.parse().ok()?, title))
}

/// Whether a process lives: not gone, not a zombie, and still the one with this title.
pub(crate) fn lives(pid: u32, title: &str) -> bool {
    process(Path::new(&format!("/proc/{pid}"))).is_some_and(|process| process.2 == title)
}

/// Sends a process a signal.
pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Waits until none of these processes lives, and looks for what they could have left.
#[track_caller]
pub(crate) fn all_gone(processes: &[(u32, String)]) {
    for (pid, title) in processes {
        eventually(&format!("{title} still lives"), || !lives(*pid, title));
    }
    assert_eq!(left_behind(), Vec::<PathBuf>::new());
}

/// Waits until `done`; panics with `what` if that takes more than a minute.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Directories in the temporary directory that machines could leave behind.
fn left_behind() -> Vec<PathBuf> {
    let entries = fs::read_dir(env::temp_dir()).unwrap();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("crumble-link-")
    };
    paths.filter(ours).collect()
}
