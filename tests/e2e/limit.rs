//! A test that hangs fails, and says where.

use std::{
    fs,
    io::{Write, stderr},
    process,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::family;

/// What the longest test takes on a slow host, several times.
const LIMIT: Duration = Duration::from_secs(600);

/// How long a test may take to fail once all that it waits for is dead.
const GRACE: Duration = Duration::from_secs(30);

/// Runs a test. If it takes too long, shows what the processes below this one wait for and kills
/// them, so that the test fails; if that does not end it, ends this program.
#[expect(clippy::exit, reason = "what does not end cannot be returned from")]
pub(crate) fn within(name: &str, test: fn()) {
    let name = name.to_owned();
    let (alive, ended) = channel::<()>();
    let watch = thread::spawn(move || {
        if ended.recv_timeout(LIMIT) != Err(RecvTimeoutError::Timeout) {
            return false;
        }
        let below = family(process::id());
        let report: String = below
            .iter()
            .map(|(pid, title)| state(*pid, title))
            .collect();
        let _ = write!(stderr(), "{name} takes more than {LIMIT:?}:\n{report}");
        for (pid, _) in below.iter().filter(|(pid, _)| *pid != process::id()) {
            if let Ok(pid) = i32::try_from(*pid) {
                // It may have ended with the one before it.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if ended.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
            let _ = writeln!(stderr(), "{name} does not end");
            process::exit(1);
        }
        true
    });
    test();
    drop(alive);
    assert!(!watch.join().unwrap(), "it took more than {LIMIT:?}");
}

/// What each thread of a process waits for (proc_pid_syscall(5), proc_pid_stack(5)).
fn state(pid: u32, title: &str) -> String {
    let mut text = format!("{pid} {title}\n");
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    for thread in threads.into_iter().flatten().flatten() {
        let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let stack = read("stack").lines().take(4).collect::<Vec<_>>().join(" ");
        let line = format!("{} {} {stack}", read("comm"), read("syscall")).replace('\n', " ");
        text.push_str(&format!("    {line}\n"));
    }
    text
}
