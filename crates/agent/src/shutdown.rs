//! The end of the machine.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process, thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        reboot::{RebootMode, reboot},
        signal::{Signal, kill},
    },
    unistd::{Pid, sync},
};
use wire::agent::Shutdown;

use crate::sys;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// How often to look whether all have gone.
const STEP: Duration = Duration::from_millis(5);

/// Has the machine ended by whoever is process 1.
pub(crate) fn shut_down(how: Shutdown) {
    if is_ours("/proc/1/exe") {
        end_all(how);
    }
    ask(how);
}

/// Whether it is a link to this very program.
pub(crate) fn is_ours(link: &str) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((identity(link), identity("/proc/self/exe")), (Ok(one), Ok(other)) if one == other)
}

/// Asks the root's own init, by the signals of systemd (systemd(1), "SIGNALS") or of busybox.
fn ask(how: Shutdown) {
    let systemd = fs::exists("/run/systemd/system").unwrap_or(false);
    let number = match (systemd, how) {
        (true, Shutdown::PowerOff) => libc::SIGRTMIN().saturating_add(4),
        (true, Shutdown::Reboot) => libc::SIGRTMIN().saturating_add(5),
        (false, Shutdown::PowerOff) => libc::SIGUSR2,
        (false, Shutdown::Reboot) => libc::SIGTERM,
    };
    sys::signal_process(INIT, number);
}

const INIT: Pid = Pid::from_raw(1);

/// Stops every process, writes everything back, and ends the machine. Does not return.
fn end_all(how: Shutdown) -> ! {
    if others() {
        // An error means that there is nobody to signal.
        let _ = kill(EVERYBODY, Signal::SIGTERM);
        let _ = kill(EVERYBODY, Signal::SIGCONT);
        let start = Instant::now();
        while others() && start.elapsed() < GRACE {
            thread::sleep(STEP);
        }
        let _ = kill(EVERYBODY, Signal::SIGKILL);
    }
    sync();
    unmount();
    end(how)
}

/// All processes but process 1 and the caller.
const EVERYBODY: Pid = Pid::from_raw(-1);

/// Whether there are user processes besides process 1 and the caller's. Kernel threads and
/// zombies have no program.
fn others() -> bool {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok());
            number.is_some_and(|number| number != 1 && number != process::id())
                && fs::read_link(entry.path().join("exe")).is_ok()
        })
}

/// Takes off what is written to the host, the last mounted first.
fn unmount() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(path), Some("virtiofs")) = (fields.next(), fields.next()) {
            // A file system that is still in use is left to the sync above.
            let _ = umount2(unescape(path).as_slice(), MntFlags::empty());
        }
    }
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let none = None::<&str>;
    let _ = mount(none, "/", none, read_only, none);
}

/// A path as it is: the kernel writes white space and backslashes in octal (proc_pid_mounts(5)).
fn unescape(path: &str) -> Vec<u8> {
    let mut rest = path.as_bytes();
    let mut plain = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        let octal = after
            .get(..3)
            .and_then(|digits| str::from_utf8(digits).ok());
        let value = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let byte;
        (byte, rest) = match (first, value, after.get(3..)) {
            (b'\\', Some(value), Some(after)) => (value, after),
            _ => (*first, after),
        };
        plain.push(byte);
    }
    plain
}

/// Powers off or restarts; where neither works, halts.
pub(crate) fn end(how: Shutdown) -> ! {
    let mode = match how {
        Shutdown::PowerOff => RebootMode::RB_POWER_OFF,
        Shutdown::Reboot => RebootMode::RB_AUTOBOOT,
    };
    // Neither returns if it works.
    let _ = reboot(mode);
    let _ = reboot(RebootMode::RB_HALT_SYSTEM);
    loop {
        thread::sleep(GRACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_in_mount_paths_is_read_back() {
        assert_eq!(unescape("/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescape("/plain"), b"/plain");
        assert_eq!(unescape("\\04"), b"\\04");
    }
}
