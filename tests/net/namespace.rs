//! Network namespaces, and programs in them.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A network of its own, in which /etc/resolv.conf says something of its own.
pub(crate) struct Namespace {
    network: File,
    mounts: File,
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A program that runs until this is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Namespace {
    /// A network of loopback alone. `resolver` is a file with what /etc/resolv.conf is to say.
    pub(crate) fn new(resolver: &Path) -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let none: Option<&str> = None;
            let bind = MsFlags::MS_BIND;
            // That of an earlier namespace, which this thread has come from.
            let _ = umount2("/etc/resolv.conf", MntFlags::MNT_DETACH);
            mount(Some(resolver), "/etc/resolv.conf", none, bind, none).unwrap();
            let open = |name| File::open(format!("/proc/thread-self/ns/{name}")).unwrap();
            Self {
                network: open("net"),
                mounts: open("mnt"),
            }
        };
        let namespace = thread::scope(|scope| scope.spawn(make).join().unwrap());
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Moves this thread here.
    pub(crate) fn enter(&self) {
        // A thread that shares its working directory with others cannot change its mounts.
        unshare(CloneFlags::CLONE_FS).unwrap();
        setns(self.network.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        setns(self.mounts.as_fd(), CloneFlags::CLONE_NEWNS).unwrap();
    }

    /// A path that leads here.
    pub(crate) fn path(&self) -> String {
        let (process, fd) = (std::process::id(), self.network.as_raw_fd());
        format!("/proc/{process}/fd/{fd}")
    }

    /// Does something here.
    #[track_caller]
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let here = || {
            self.enter();
            work()
        };
        let ended = thread::scope(|scope| scope.spawn(here).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a shell's script here to its end.
    pub(crate) fn try_sh(&self, script: &str) -> Said {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string());
        command.args(["sh", "-c", script]).stdin(Stdio::null());
        let output = self.run(move || command.output().unwrap());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Runs a script that succeeds, and returns what it printed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        let said = self.try_sh(script);
        assert_eq!(said.code, Some(0), "{script}: {}{}", said.out, said.err);
        said.out
    }

    /// Starts a program here. What it says goes where this program's words go.
    pub(crate) fn spawn(&self, mut command: Command) -> Running {
        command.stdin(Stdio::null());
        Running(self.run(move || command.spawn().unwrap()))
    }

    /// Waits until somebody here listens at a TCP port.
    #[track_caller]
    pub(crate) fn await_listener(&self, at: impl Into<SocketAddr>) {
        let at = at.into();
        self.run(move || eventually("nobody listens", || TcpStream::connect(at).is_ok()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `done`.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Writes a file and returns its path, for command lines.
pub(crate) fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
