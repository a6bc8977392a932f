//! A guest's FUSE client over the rings of a device process.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub(crate) mod fuse;

use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vq_driver::{Driver, Setup, Used};

/// How long anything may take before it counts as a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Queue 0 carries what must not wait behind the others: FORGET.
pub(crate) const HIGH_PRIORITY: usize = 0;
/// Queue 1 carries everything else.
pub(crate) const REQUESTS: usize = 1;

/// A device process without its jail, and the guest that drives it.
pub(crate) struct Device {
    pub(crate) driver: Driver,
    child: Child,
    /// Whose requests these are.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    unique: u64,
    buffers: Buffers,
    _socket: TempDir,
}

/// Guest memory for one request and its answer.
struct Buffers {
    request: u64,
    answer: u64,
}

/// The largest request or answer, in bytes.
pub(crate) const ROOM: usize = 2 << 20;

impl Device {
    /// Serves `directory`; `words` are those of the `unjailed` example.
    pub(crate) fn start(directory: &Path, words: &str) -> Self {
        let device = Self::start_without_init(directory, words);
        let mut device = device;
        device.init();
        device
    }

    /// As [`Device::start`], before FUSE_INIT.
    pub(crate) fn start_without_init(directory: &Path, words: &str) -> Self {
        let socket = tempfile::tempdir().unwrap();
        let path = socket.path().join("s");
        let device = Path::new(env!("CARGO_BIN_EXE_crumble-dev-fs"));
        let child = Command::new(device.parent().unwrap().join("examples/unjailed"))
            .args([path.as_os_str(), directory.as_os_str(), words.as_ref()])
            .stdin(Stdio::null())
            .spawn()
            .expect("the example is built with the tests");
        let setup = Setup {
            queues: &[64, 128],
            ..Setup::default()
        };
        let driver = Driver::start(connect(&path), &setup).unwrap();
        let buffers = Buffers {
            request: driver.memory.allocate(ROOM).unwrap(),
            answer: driver.memory.allocate(ROOM).unwrap(),
        };
        Self {
            driver,
            child,
            uid: 0,
            gid: 0,
            unique: 0,
            buffers,
            _socket: socket,
        }
    }

    /// How the process ended, if it does so in time.
    pub(crate) fn wait_for_end(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }

    /// How the process has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the next answer, as long as there is a process to give it.
    pub(crate) fn wait(&mut self) -> Result<Used, vq_driver::Error> {
        let until = Instant::now() + PATIENCE;
        loop {
            let ended = self.ended().is_some();
            match self.driver.queues[REQUESTS].wait(Duration::from_millis(50)) {
                Err(vq_driver::Error::Timeout) if !ended && Instant::now() < until => {}
                result => return result,
            }
        }
    }

    /// Fails unless the process either answers an honest request, if only that it cannot be done,
    /// or ends, and not by a signal.
    pub(crate) fn assert_serves_or_ended(&mut self, after: &str) {
        let until = Instant::now() + PATIENCE;
        let honest = self.try_request(fuse::GETATTR, fuse::ROOT, &[&[0; 16]], 104);
        if honest.is_ok() {
            return;
        }
        while self.ended().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.ended();
        let status = status.unwrap_or_else(|| panic!("{after}: neither serves nor ends"));
        assert_eq!(status.signal(), None, "{after}: died by a signal");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(path: &Path) -> UnixStream {
    let until = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > until => panic!("no device: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
