//! Reads and writes of one file in the page cache, by our device in its jail and by QEMU's storage
//! daemon without one, in turn, under the same driver: `cargo bench -p dev-block --bench disk`.

#![expect(clippy::print_stdout, reason = "the result")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a benchmark prints small numbers"
)]

#[path = "../tests/guest/mod.rs"]
mod guest;
#[path = "../tests/jailed/mod.rs"]
mod jailed;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dev_block::request::{Header, kind};
use guest::{ALL, PATIENCE, config, handles};
use jailed::{Process, launch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::{NamedTempFile, TempDir};
use vq_driver::{Buffer, Driver, Setup};

/// Each measurement takes this long.
const TIME: Duration = Duration::from_millis(700);

/// How many are taken; the middle one counts.
const ROUNDS: usize = 7;

/// The file.
const SIZE: u64 = 512 << 20;

/// What is measured.
struct Case {
    name: &'static str,
    kind: u32,
    /// Bytes of a request.
    length: u64,
    /// Requests at a time.
    depth: u64,
    random: bool,
}

const fn case(name: &'static str, kind: u32, length: u64, depth: u64) -> Case {
    Case {
        name,
        kind,
        length,
        depth,
        random: length == SMALL,
    }
}

const SMALL: u64 = 4096;
const LARGE: u64 = 1 << 20;

const CASES: [Case; 8] = [
    case("4 KiB random reads, 1 at a time", kind::IN, SMALL, 1),
    case("4 KiB random reads, 32 at a time", kind::IN, SMALL, 32),
    case("4 KiB random writes, 1 at a time", kind::OUT, SMALL, 1),
    case("4 KiB random writes, 32 at a time", kind::OUT, SMALL, 32),
    case("1 MiB sequential reads, 1 at a time", kind::IN, LARGE, 1),
    case("1 MiB sequential reads, 4 at a time", kind::IN, LARGE, 4),
    case("1 MiB sequential writes, 1 at a time", kind::OUT, LARGE, 1),
    case("1 MiB sequential writes, 4 at a time", kind::OUT, LARGE, 4),
];

fn main() {
    let file = cached();
    let start: [fn(&NamedTempFile) -> Option<Served>; 2] = [ours, theirs];
    let is_compared = theirs(&file).is_some();
    if !is_compared {
        println!("NOT COMPARED: qemu-storage-daemon cannot be run; it is in qemu-system-common");
    }
    println!("median of {ROUNDS}: ours, QEMU's, ratio; system calls a request: ours, QEMU's");
    for case in CASES {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (rates, start) in rates.iter_mut().zip(start) {
                rates.extend(start(&file).map(|served| served.rate(&case)));
            }
        }
        let [ours, theirs] = rates.map(median);
        let [our_calls, their_calls] =
            start.map(|start| start(&file).and_then(|served| served.calls(&case)));
        let say = |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{value:.2}"));
        let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
        let unit = if case.length == LARGE {
            "MiB/s"
        } else {
            "requests/s"
        };
        println!(
            "{}, {unit}: {:.0}, {:.0}, {}; {}, {}",
            case.name,
            ours.unwrap_or_default(),
            theirs.unwrap_or_default(),
            say(ratio),
            say(our_calls),
            say(their_calls),
        );
    }
}

/// A file that is all in the page cache, and stays there.
fn cached() -> NamedTempFile {
    let shared = Path::new("/dev/shm");
    let file = if shared.is_dir() {
        NamedTempFile::new_in(shared)
    } else {
        NamedTempFile::new()
    };
    let mut file = file.unwrap();
    for _ in 0..SIZE >> 20 {
        file.write_all(&[7; 1 << 20]).unwrap();
    }
    file
}

fn median(mut rates: Vec<f64>) -> Option<f64> {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

/// What runs behind a driver.
enum Device {
    Ours(Process),
    /// With the directory that its socket is in.
    Theirs {
        daemon: Child,
        _place: TempDir,
    },
}

/// A device and its driver.
struct Served {
    driver: Driver,
    /// A request's header and status, and its data, for each that may be open.
    slots: Vec<(u64, u64)>,
    /// For places.
    seed: u64,
    next: u64,
    device: Device,
}

fn ours(file: &NamedTempFile) -> Option<Served> {
    let (process, ready) = launch(&config(&[SIZE / 512]), &handles(&[file.reopen().unwrap()]));
    ready.unwrap();
    let socket = process.socket.try_clone().unwrap();
    Some(Served::new(socket, Device::Ours(process)))
}

fn theirs(file: &NamedTempFile) -> Option<Served> {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("s");
    let node = format!(
        "driver=file,node-name=disk,filename={}",
        file.path().display()
    );
    let export = "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix";
    let export = format!("{export},addr.path={}", socket.display());
    let mut command = Command::new("qemu-storage-daemon");
    command.args(["--blockdev", &node, "--export", &export]);
    let daemon = command.stdin(Stdio::null()).spawn().ok()?;
    let until = Instant::now() + PATIENCE;
    let stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    };
    Some(Served::new(
        stream,
        Device::Theirs {
            daemon,
            _place: place,
        },
    ))
}

impl Served {
    fn new(stream: UnixStream, device: Device) -> Self {
        let setup = Setup {
            memory: 64 << 20,
            queues: &[128],
            features: ALL,
            ..Setup::default()
        };
        let driver = Driver::start(stream, &setup).unwrap();
        let slots = (0..32).map(|_| {
            let header = driver.memory.allocate(32).unwrap();
            (header, driver.memory.allocate(LARGE as usize).unwrap())
        });
        Self {
            slots: slots.collect(),
            driver,
            seed: 0x2545_f491_4f6c_dd1d,
            next: 0,
            device,
        }
    }

    fn pid(&self) -> u32 {
        match &self.device {
            Device::Ours(process) => process.process.pid().try_into().unwrap(),
            Device::Theirs { daemon, .. } => daemon.id(),
        }
    }

    /// The byte that the next request begins at.
    fn place(&mut self, case: &Case) -> u64 {
        if case.random {
            self.seed ^= self.seed << 13;
            self.seed ^= self.seed >> 7;
            self.seed ^= self.seed << 17;
            self.next = self.seed;
        } else {
            self.next += 1;
        }
        self.next % (SIZE / case.length) * case.length
    }

    fn ask(&mut self, case: &Case, slot: usize) -> u16 {
        let sector = self.place(case) / 512;
        let (header, data) = self.slots[slot];
        let kind = case.kind;
        let bytes = Header { kind, sector }.encode();
        self.driver.memory.write(header, &bytes).unwrap();
        let data = Buffer {
            address: data,
            length: case.length as u32,
            writable: kind == kind::IN,
        };
        let (header, status) = (
            Buffer::readable(header, 16),
            Buffer::writable(header + 16, 1),
        );
        self.driver.queues[0].add(&[header, data, status]).unwrap()
    }

    /// Keeps as many requests open as there are to be for `time`; how many were done.
    fn run(&mut self, case: &Case, time: Duration) -> u64 {
        let mut slots = [0; 128];
        for slot in 0..case.depth as usize {
            let head = self.ask(case, slot);
            slots[usize::from(head)] = slot;
        }
        let until = Instant::now() + time;
        let (mut done, mut open) = (0, case.depth);
        while open > 0 {
            self.driver.queues[0].kick().unwrap();
            let mut used = Some(self.driver.queues[0].wait(PATIENCE).unwrap());
            let goes_on = Instant::now() < until;
            while let Some(one) = used {
                let slot = slots[usize::from(one.head)];
                self.assert_done(slot);
                (done, open) = (done + 1, open - 1);
                if goes_on {
                    let head = self.ask(case, slot);
                    slots[usize::from(head)] = slot;
                    open += 1;
                }
                used = self.driver.queues[0].used().unwrap();
            }
        }
        done
    }

    fn assert_done(&self, slot: usize) {
        let mut status = [9];
        let at = self.slots[slot].0 + 16;
        self.driver.memory.read(at, &mut status).unwrap();
        assert_eq!(status, [0]);
        self.driver.memory.write(at, &[9]).unwrap();
    }

    /// Requests a second, or MiB if they are large.
    fn rate(mut self, case: &Case) -> f64 {
        self.run(case, TIME / 7);
        let start = Instant::now();
        let done = self.run(case, TIME);
        done as f64 / start.elapsed().as_secs_f64()
    }

    /// System calls of the device for one request; none if perf cannot count them.
    fn calls(mut self, case: &Case) -> Option<f64> {
        self.run(case, TIME / 7);
        let pid = self.pid().to_string();
        let mut command = Command::new("perf");
        command.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &pid]);
        let perf = command.stderr(Stdio::piped()).spawn();
        let counted = perf.and_then(|mut perf| {
            // Until it counts.
            thread::sleep(Duration::from_millis(300));
            let done = self.run(case, TIME);
            kill(Pid::from_raw(perf.id().cast_signed()), Signal::SIGINT)?;
            let mut text = String::new();
            perf.stderr.take().unwrap().read_to_string(&mut text)?;
            perf.wait()?;
            let count = text.split(',').next().and_then(|count| count.parse().ok());
            let count: f64 = count.ok_or_else(|| io::Error::other(text))?;
            Ok(count / done as f64)
        });
        if let Err(error) = &counted {
            println!("NOT COUNTED: system calls, as perf cannot: {error}");
        }
        counted.ok()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Device::Theirs { daemon, .. } = &mut self.device {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }
}
