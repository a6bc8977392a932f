//! For development only: hears of every system call of a component, and lets it go on.
//!
//! The filter hands each call to a listener (seccomp_unotify(2)), which is read by a process beside
//! the component that shares its descriptors. Each call is written down once for each set of values
//! of those arguments that the policy asks about, as `NUMBER INDEX=VALUE ...`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use policy::{Call, Instruction, Policy};

use crate::sys::{self, Notified};

/// Where the records are; set when this is compiled.
const DIRECTORY: Option<&str> = option_env!("CRUMBLE_TRACE_DIR");

/// `SECCOMP_RET_USER_NOTIF` for whatever is called (`linux/seccomp.h`).
static NOTIFY: [Instruction; 1] = [Instruction {
    code: 0x06,
    jt: 0,
    jf: 0,
    k: 0x7fc0_0000,
}];

/// Makes the record of this process, while there are paths.
pub(crate) fn record(policy: &Policy) -> io::Result<File> {
    let directory = DIRECTORY.ok_or_else(|| io::Error::other("CRUMBLE_TRACE_DIR was not set"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let name = format!(
        "{}.{}",
        policy.component,
        now.unwrap_or_default().as_nanos()
    );
    File::create_new(Path::new(directory).join(name))
}

/// Begins to write down what this process, which has one thread, and its threads to come call.
pub(crate) fn begin(policy: &'static Policy, record: File) -> io::Result<()> {
    // The listener will get the lowest number that is free.
    let listener = sys::duplicate_above(record.as_fd(), 0)?.as_raw_fd();
    if sys::fork_sharing_descriptors()? {
        listen(policy, listener, record);
        sys::exit_now(0);
    }
    // Both stay open: the descriptors are those of the process beside, too.
    let _record = record.into_raw_fd();
    let made = sys::install_listener(&NOTIFY)?.into_raw_fd();
    if made != listener {
        return Err(io::Error::other("the listener has another number"));
    }
    Ok(())
}

/// The process beside: ends when the component does, for that is the first of its namespace.
fn listen(policy: &Policy, listener: RawFd, mut record: File) {
    let mut known = BTreeSet::new();
    loop {
        match sys::receive_notification(listener) {
            Ok(call) => {
                let line = line(policy, &call);
                if !known.contains(&line) && record.write_all(line.as_bytes()).is_ok() {
                    known.insert(line);
                }
                let refused = of(policy, &call).is_some_and(|call| call.error.is_some());
                // A thread that was killed meanwhile needs no answer.
                let _ = sys::answer_notification(listener, call.id, refused);
            }
            // Not yet a listener, or a call that was interrupted.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The policy's line for a call.
fn of<'a>(policy: &'a Policy, call: &Notified) -> Option<&'a Call> {
    let mut lines = policy.calls.iter().map(|line| &line.value);
    lines.find(|line| i64::from(line.number) == i64::from(call.number))
}

fn line(policy: &Policy, call: &Notified) -> String {
    let when = of(policy, call).map_or(&[][..], |line| line.when);
    let mut text = call.number.to_string();
    for (index, value) in call.arguments.iter().enumerate() {
        if when
            .iter()
            .any(|when| when.contains(&format!("arg{index} ")))
        {
            // Writing to a string does not fail.
            let _ = write!(text, " {index}={value:#x}");
        }
    }
    text + "\n"
}
