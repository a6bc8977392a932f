//! What the process has left once its jail is closed, that it is enough for its work, and what is left
//! of the work when the process dies.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;
mod jailed;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use dev_block::request::{Header, feature, kind};
use guest::{
    ALL, Guest, IO_ERROR, Layout, OK, PATIENCE, UNSUPPORTED, config, files, handles, range,
};
use jailed::{Process, launch};
use jailer::Exit;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vq_driver::{Buffer, Driver, Setup};
use wire::block::Config;

fn ready(config: &Config, files: &[File]) -> Process {
    let (process, ready) = launch(config, &handles(files));
    ready.unwrap();
    process
}

#[test]
fn it_filters_system_calls_and_has_no_capability_no_network_and_no_root() {
    let config = config(&[8]);
    let process = ready(&config, &files(&config));
    // SECCOMP_MODE_FILTER.
    assert_eq!(process.status("Seccomp"), "2");
    assert_eq!(process.status("NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let bits = u64::from_str_radix(&process.status(set), 16);
        assert_eq!(bits, Ok(0), "{set}");
    }
    let pid = process.process.pid();
    let of = |pid: &str, name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in ["user", "mnt", "ipc", "uts", "cgroup", "pid", "net"] {
        assert_ne!(of(&pid.to_string(), name), of("self", name), "{name}");
    }
    let root = format!("/proc/{pid}/root");
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn every_thread_is_in_the_jail() {
    let config = config(&[8]);
    let process = ready(&config, &files(&config));
    let _guest = process.guest();
    let tasks = format!("/proc/{}/task", process.process.pid());
    let mut threads = 0;
    for task in fs::read_dir(tasks).unwrap() {
        let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(text.contains("Seccomp:\t2\n"), "{text}");
        threads += 1;
    }
    assert!(threads >= 3, "{threads}");
}

#[test]
fn all_of_its_work_is_possible_in_the_jail() {
    let config = Config {
        queues: 16,
        ..config(&[1024, 1024])
    };
    let memory = File::from(memfd_create(c"disk", MFdFlags::MFD_CLOEXEC).unwrap());
    memory.set_len(1024 * 512).unwrap();
    let files = [files(&config).remove(0), memory];
    let mut process = ready(&config, &files);
    let mut guest = process.guest();
    for layout in [Layout::Plain, Layout::Joined, Layout::Cut, Layout::Indirect] {
        guest.layout = layout;
        assert_eq!(guest.tell(kind::OUT, 0, &vec![layout as u8; 1 << 20]), OK);
        assert_eq!(guest.read(0, 2048), vec![layout as u8; 1 << 20]);
        assert_eq!(guest.tell(kind::FLUSH, 0, &[]), OK);
        assert_eq!(guest.tell(kind::DISCARD, 0, &range(1, 2047, 0)), OK);
        for unmap in [0, 1] {
            let range = range(3, 2000, unmap);
            assert_eq!(guest.tell(kind::WRITE_ZEROES, 0, &range), OK);
        }
        assert_eq!(guest.ask(kind::GET_ID, 0, &[], 20).status, OK);
        assert_eq!(guest.tell(kind::OUT, 5000, &[0; 512]), IO_ERROR);
    }
    for queue in 0..16 {
        let header = Header {
            kind: kind::IN,
            sector: 0,
        };
        assert_eq!(guest.ask_by(queue, header, &[], 512).status, OK);
    }
    // A driver that cannot flush, and nonsense in the ring, of which it writes to its log.
    guest.driver.queues[0].set_available_index(5000).unwrap();
    guest.driver.queues[0].kick_anyway().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(process.process.try_wait().unwrap(), None);
    process.control = None;
    let (exit, log) = process.end();
    assert_eq!(exit, Exit::Code(0), "{log}");
    assert!(log.contains("until the driver resets it"), "{log}");
}

#[test]
fn an_image_of_as_many_layers_as_there_may_be_is_served() {
    let config = Config {
        read_only: true,
        ..config(&[8; Config::MAX_EXTENTS])
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&[5; 512], 0).unwrap();
    let open = |_| OwnedFd::from(File::open(file.path()).unwrap());
    let files: Vec<_> = (0..Config::MAX_EXTENTS).map(open).collect();
    let (process, ready) = launch(&config, &files);
    ready.unwrap();
    let mut guest = process.guest();
    assert_eq!(guest.read(128 * 8, 1), [5; 512]);
    assert_eq!(guest.tell(kind::OUT, 128 * 8, &[6; 512]), IO_ERROR);
    drop(guest);
    assert_eq!(fs::read(file.path()).unwrap(), [5; 512]);
}

#[test]
fn a_read_only_disk_of_a_file_that_could_be_written_is_refused() {
    let config = config(&[8]);
    let files = files(&config);
    let read_only = Config {
        read_only: true,
        ..config
    };
    let (process, ready) = launch(&read_only, &handles(&files));
    let text = ready.unwrap_err().to_string();
    assert!(
        text.contains("extent 0 is not open for reading alone"),
        "{text}"
    );
    assert_eq!(process.end().0, Exit::Code(2));
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let good = config(&[8, 8]);
    let files = files(&good);
    let (process, ready) = launch(&config(&[4, 8]), &handles(&files));
    let text = ready.unwrap_err().to_string();
    assert!(text.contains("extent 0 has 4 sectors"), "{text}");
    assert_eq!(process.end().0, Exit::Code(2));
    let (_, ready) = launch(&good, &handles(&files[..1]));
    let text = ready.unwrap_err().to_string();
    assert!(text.contains("no resource named `extent1`"), "{text}");
    let (_, ready) = launch(&config(&[8, 9]), &handles(&files));
    let text = ready.unwrap_err().to_string();
    assert!(text.contains("make it longer"), "{text}");
}

#[test]
fn a_program_started_by_hand_says_how_it_is_started() {
    let output = Command::new(env!("CARGO_BIN_EXE_crumble-dev-block"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!output.stderr.is_empty());
}

/// Writes of one sector each, every one with its number, and a flush behind it.
struct Writer {
    driver: Driver,
    room: u64,
    /// The next number.
    next: u64,
    /// Heads of what is not done, each with its number if it is a write.
    open: Vec<(u16, Option<u64>)>,
    /// Numbers whose flush is done.
    flushed: Vec<u64>,
}

const SLOTS: u64 = 24;

impl Writer {
    fn add(&mut self) {
        while (self.open.len() as u64) < SLOTS * 2 {
            let number = self.next;
            self.next += 1;
            let at = self.room + number % SLOTS * 4096;
            for (at, header, data) in [
                (at, kind::OUT, &number.to_le_bytes().repeat(64)[..]),
                (at + 2048, kind::FLUSH, &[]),
            ] {
                let header = Header {
                    kind: header,
                    sector: number,
                };
                let bytes = [&header.encode(), data].concat();
                self.driver.memory.write(at, &bytes).unwrap();
                let buffers = [
                    Buffer::readable(at, bytes.len() as u32),
                    Buffer::writable(at + 1024, 1),
                ];
                let head = self.driver.queues[0].add(&buffers).unwrap();
                let write = (!data.is_empty()).then_some(number);
                self.open.push((head, write));
            }
        }
        self.driver.queues[0].kick().unwrap();
    }

    /// Takes what is done, which is in order.
    fn take(&mut self, used: vq_driver::Used) {
        let (head, _) = self.open.remove(0);
        assert_eq!(used.head, head);
        // Behind each flush is the write of the number before it, if that was its neighbour.
        let flushes = self.next - self.open.len().div_ceil(2) as u64;
        if self.open.len().is_multiple_of(2) {
            self.flushed.push(flushes - 1);
        }
    }

    fn take_all(&mut self) {
        while let Some(used) = self.driver.queues[0].used().unwrap() {
            self.take(used);
        }
    }
}

fn assert_written(file: &File, numbers: &[u64]) {
    for number in numbers {
        let mut seen = [0; 512];
        file.read_exact_at(&mut seen, number * 512).unwrap();
        assert_eq!(seen[..], number.to_le_bytes().repeat(64)[..], "{number}");
    }
}

#[test]
fn a_process_that_is_killed_loses_nothing_and_another_one_finishes_its_work() {
    let config = config(&[1 << 20]);
    let files = files(&config);
    let mut process = ready(&config, &files);
    let setup = Setup {
        queues: &[128],
        features: ALL,
        ..Setup::default()
    };
    let driver = Driver::start(process.socket.try_clone().unwrap(), &setup).unwrap();
    let room = driver.memory.allocate(SLOTS as usize * 4096).unwrap();
    let mut writer = Writer {
        driver,
        room,
        next: 0,
        open: Vec::new(),
        flushed: Vec::new(),
    };
    for life in 1..=8 {
        while writer.flushed.len() < life * 100 {
            writer.add();
            let used = writer.driver.queues[0].wait(PATIENCE).unwrap();
            writer.take(used);
            writer.take_all();
        }
        writer.add();
        let pid = process.process.pid();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        assert_eq!(process.end().0, Exit::Signal(9));
        writer.take_all();
        assert_written(&files[0], &writer.flushed);
        // The next one goes on where the used ring ends, as the VMM has it do.
        process = ready(&config, &files);
        let stream = process.socket.try_clone().unwrap();
        writer.driver.resume(stream, PATIENCE).unwrap();
    }
    while !writer.open.is_empty() {
        let used = writer.driver.queues[0].wait(PATIENCE).unwrap();
        writer.take(used);
    }
    let all: Vec<_> = (0..writer.next).collect();
    assert_eq!(writer.flushed, all);
    assert_written(&files[0], &all);
}

/// The calls of a kind that a process makes, counted by strace; none if there is no strace, or it may
/// not look.
struct Counted {
    strace: Child,
    lines: Lines<BufReader<ChildStderr>>,
    /// How a line of one begins.
    call: String,
}

impl Counted {
    fn start(process: &Process, call: &str) -> Option<Self> {
        let pid = process.process.pid().to_string();
        let trace = format!("trace={call}");
        let mut command = Command::new("strace");
        command.args(["-f", "-e", &trace, "-p", &pid]);
        let strace = command.stderr(Stdio::piped()).spawn();
        let counted = strace.ok().and_then(|mut strace| {
            let mut lines = BufReader::new(strace.stderr.take()?).lines();
            let first = lines.next()?.ok()?;
            let call = format!("{call}(");
            first.contains("attached").then_some(Self {
                strace,
                lines,
                call,
            })
        });
        if counted.is_none() {
            // Shown also where output is captured.
            let line =
                format!("NOT TRIED: strace is not here or may not look, {call} is not seen\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        counted
    }

    /// How many there were, once the process has ended.
    fn finish(mut self) -> usize {
        let lines = self.lines.map_while(Result::ok);
        let count = lines.filter(|line| line.contains(&self.call)).count();
        self.strace.wait().unwrap();
        count
    }
}

#[test]
fn every_write_of_a_driver_that_cannot_flush_is_flushed() {
    for (features, expected) in [(0, 3), (feature::FLUSH, 1)] {
        let config = config(&[64]);
        let files = files(&config);
        let mut process = ready(&config, &files);
        let socket = process.socket.try_clone().unwrap();
        let more = feature::DISCARD | feature::WRITE_ZEROES;
        let mut guest = Guest::start_with(socket, features | more, 1);
        let counted = Counted::start(&process, "fdatasync");
        assert_eq!(guest.tell(kind::OUT, 3, &[3; 512]), OK);
        assert_eq!(guest.tell(kind::DISCARD, 0, &range(0, 1, 0)), OK);
        assert_eq!(guest.tell(kind::WRITE_ZEROES, 0, &range(0, 1, 0)), OK);
        let status = guest.tell(kind::FLUSH, 0, &[]);
        let agreed = features & feature::FLUSH != 0;
        assert_eq!(status, if agreed { OK } else { UNSUPPORTED });
        guest.read(0, 1);
        process.control = None;
        assert_eq!(process.end().0, Exit::Code(0));
        if let Some(counted) = counted {
            assert_eq!(counted.finish(), expected);
        }
    }
}

#[test]
fn the_readme_lists_what_the_policy_allows_and_nothing_else() {
    let policy = policy::component("dev-block").unwrap();
    let mut allowed: Vec<_> = policy
        .calls
        .iter()
        .filter(|call| call.value.error.is_none())
        .map(|call| call.value.name)
        .collect();
    allowed.sort_unstable();
    let readme = include_str!("../README.md");
    let block = readme.split("```text\n").nth(1).unwrap();
    let listed = block.split("```").next().unwrap().split_whitespace();
    let all = allowed.join(" ");
    assert!(listed.eq(allowed), "README.md should list:\n{all}");
    assert!(readme.contains("no capabilities") && policy.capabilities.is_empty());
    assert_eq!(policy.proc, None);
}
