//! A guest's FUSE client over the rings of a device process.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub(crate) mod fuse;

pub(crate) mod words;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use handoff::Channel;
use jailer::{Exit, Launch, Process};
use tempfile::TempDir;
use vq_driver::{Driver, Setup, Used};

/// How long anything may take before it counts as a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Queue 0 carries what must not wait behind the others: FORGET.
pub(crate) const HIGH_PRIORITY: usize = 0;
/// Queue 1 carries everything else.
pub(crate) const REQUESTS: usize = 1;

/// A device process, and the guest that drives it.
pub(crate) struct Device {
    pub(crate) driver: Driver,
    pub(crate) process: Running,
    /// Whose requests these are.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// What is left to its successor.
    journal: File,
    /// How it dies and who follows, if it does not live for ever.
    pub(crate) fate: Option<Fate>,
    unique: u64,
    buffers: Buffers,
}

/// When a device is killed in the middle of requests. Another one takes its place.
pub(crate) struct Fate {
    /// What the other one serves, and how.
    pub(crate) directory: PathBuf,
    pub(crate) words: String,
    /// How many have been killed.
    pub(crate) deaths: usize,
    random: u64,
}

impl Fate {
    pub(crate) fn new(directory: &Path, words: &str, seed: u64) -> Self {
        Self {
            directory: directory.to_owned(),
            words: words.to_owned(),
            deaths: 0,
            random: seed,
        }
    }

    /// A number below `end` (xorshift).
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }

    /// How long after a request it is killed, if it is.
    fn strikes(&mut self) -> Option<Duration> {
        let micros = self.below(120);
        (self.below(4) == 0).then(|| Duration::from_micros(micros))
    }
}

/// A device's process.
pub(crate) enum Running {
    /// As the supervisor starts it; with its log and the channel whose end releases it.
    Jailed {
        process: Process,
        log: File,
        control: Option<Channel>,
    },
    /// The example that has no jail.
    Free { child: Child, _socket: TempDir },
}

/// How a process ended, in the terms that both kinds share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
}

/// Guest memory for one request and its answer.
struct Buffers {
    request: u64,
    answer: u64,
}

/// The largest request or answer, in bytes.
pub(crate) const ROOM: usize = 2 << 20;

impl Device {
    /// Serves `directory` in the jail, as its supervisor would; [`words::config`] explains `words`.
    pub(crate) fn start(directory: &Path, words: &str) -> Self {
        let journal = words::journal();
        let (process, stream) = launch(directory, words, &journal);
        Self::over(process, stream, journal)
    }

    /// Kills the device at once, and puts another in its place.
    pub(crate) fn replace(&mut self, directory: &Path, words: &str) {
        self.process.kill();
        let (process, stream) = launch(directory, words, &self.journal);
        self.process = process;
        self.driver
            .resume(stream, PATIENCE)
            .unwrap_or_else(|error| panic!("{error}: {}", self.process.log()));
    }

    /// As [`Device::start`], without the jail, and with a limit of open files.
    pub(crate) fn start_unjailed(directory: &Path, words: &str, files: u32) -> Self {
        let socket = tempfile::tempdir().unwrap();
        let path = socket.path().join("s");
        let device = Path::new(env!("CARGO_BIN_EXE_crumble-dev-fs"));
        let child = Command::new("sh")
            .args(["-c", "ulimit -n $0; exec \"$@\"", &files.to_string()])
            .arg(device.parent().unwrap().join("examples/serve"))
            .arg("--unjailed")
            .args([path.as_os_str(), directory.as_os_str(), words.as_ref()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let stream = connect(&path);
        let process = Running::Free {
            child,
            _socket: socket,
        };
        Self::over(process, stream, words::journal())
    }

    fn over(process: Running, stream: UnixStream, journal: File) -> Self {
        let setup = Setup {
            queues: &[64, 128],
            ..Setup::default()
        };
        let mut process = process;
        let driver = Driver::start(stream, &setup)
            .unwrap_or_else(|error| panic!("{error}: {}", process.log()));
        let buffers = Buffers {
            request: driver.memory.allocate(ROOM).unwrap(),
            answer: driver.memory.allocate(ROOM).unwrap(),
        };
        let mut device = Self {
            driver,
            process,
            uid: 0,
            gid: 0,
            journal,
            fate: None,
            unique: 0,
            buffers,
        };
        device.init();
        device
    }

    /// How the process ended, if it does so in time.
    pub(crate) fn wait_for_end(&mut self) -> Option<End> {
        self.process.wait_for_end()
    }

    /// How the process has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<End> {
        self.process.ended()
    }

    /// A request is on its way: fate may strike.
    fn strike(&mut self) {
        let Some(mut fate) = self.fate.take() else {
            return;
        };
        if let Some(delay) = fate.strikes() {
            let until = Instant::now() + delay;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            fate.deaths += 1;
            self.replace(&fate.directory, &fate.words);
        }
        self.fate = Some(fate);
    }

    /// Waits for the next answer, as long as there is a process to give it.
    pub(crate) fn wait(&mut self) -> Result<Used, vq_driver::Error> {
        let until = Instant::now() + PATIENCE;
        loop {
            let ended = self.ended().is_some();
            match self.driver.queues[REQUESTS].wait(Duration::from_millis(5)) {
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
        let by_itself = status.code.is_some();
        assert!(
            by_itself,
            "{after}: died by a signal: {}",
            self.process.log()
        );
    }
}

impl Running {
    /// How the process ended, if it does so in time.
    pub(crate) fn wait_for_end(&mut self) -> Option<End> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> i32 {
        match self {
            Self::Jailed { process, .. } => process.pid(),
            Self::Free { child, .. } => child.id().cast_signed(),
        }
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        match self {
            Self::Jailed { process, .. } => process.kill().unwrap(),
            Self::Free { child, .. } => child.kill().unwrap(),
        }
        self.wait_for_end().expect("it is gone");
    }

    fn ended(&mut self) -> Option<End> {
        match self {
            Self::Jailed { process, .. } => process.try_wait().unwrap().map(|exit| End {
                code: match exit {
                    Exit::Code(code) => Some(code),
                    Exit::Signal(_) => None,
                },
            }),
            Self::Free { child, .. } => child.try_wait().unwrap().map(|status| End {
                code: status.code(),
            }),
        }
    }

    /// What it has written to its log.
    pub(crate) fn log(&mut self) -> String {
        let mut text = String::new();
        if let Self::Jailed { log, .. } = self {
            log.rewind().unwrap();
            log.read_to_string(&mut text).unwrap();
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A jailed process is killed by its own handle.
        if let Self::Free { child, .. } = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the device as the supervisor does, and connects to it.
pub(crate) fn launch(directory: &Path, words: &str, journal: &File) -> (Running, UnixStream) {
    let (running, stream, ready) = try_launch(directory, words, journal);
    let mut running = running;
    ready.unwrap_or_else(|error| panic!("{error}: {}", running.log()));
    (running, stream)
}

/// As [`launch`], for what may be refused.
pub(crate) fn try_launch(
    directory: &Path,
    words: &str,
    journal: &File,
) -> (Running, UnixStream, handoff::Result<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    let (control, theirs) = Channel::pair().unwrap();
    let log = tempfile::tempfile().unwrap();
    let program = File::open(env!("CARGO_BIN_EXE_crumble-dev-fs")).unwrap();
    let process = jailer::spawn(Launch {
        policy: policy::component("dev-fs").unwrap(),
        program: program.as_fd(),
        title: "crumble-dev-fs: test",
        stderr: log.as_fd(),
        channel: theirs,
    })
    .unwrap();
    let root = File::options()
        .read(true)
        .custom_flags(nix::libc::O_PATH | nix::libc::O_DIRECTORY)
        .open(directory)
        .unwrap();
    let resources = [
        ("vhost-user".to_owned(), listener.as_fd()),
        ("root".to_owned(), root.as_fd()),
        ("journal".to_owned(), journal.as_fd()),
    ];
    handoff::start(&control, &words::config(words), &resources).unwrap();
    let ready = handoff::await_ready(&control, PATIENCE);
    let running = Running::Jailed {
        process,
        log,
        control: Some(control),
    };
    (running, stream, ready)
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
