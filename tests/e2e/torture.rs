//! Device processes killed at random moments under load.

use std::{
    collections::hash_map::RandomState,
    env, fs,
    hash::{BuildHasher, Hasher},
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crumble::{Child, Machine, Stdio};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{eventually, programs, tests};

tests![devices_that_are_killed_at_random_under_load_lose_nothing];

/// How often, unless `CRUMBLE_KILLS` says otherwise.
const KILLS: u64 = 48;

/// The devices that are replaced. Each bears five deaths in ten seconds.
const VICTIMS: [&str; 4] = ["disk0", "net", "vsock", "fs-share0"];

/// Between two deaths, with a quarter more at most: one device's turn comes every fourth time.
const PAUSE: Duration = Duration::from_millis(600);

/// Writes to the disk and compares what is there, with nothing in the guest's memory: a line each time.
const DISK: &str = "while :; do head -c 300000 /dev/urandom > /tmp/a; \
    dd if=/tmp/a of=/dev/vda bs=4k conv=fsync 2>/dev/null || echo the disk cannot be written; \
    echo 3 > /proc/sys/vm/drop_caches; \
    head -c 300000 /dev/vda | cmp - /tmp/a && echo done; done";

/// Makes a tree in a share and changes all of it; says what is not as it should be. A file stays open, and is
/// appended to, from the first round to the last.
const FILES: &str = "cd /share; exec 3>>log; n=0; \
    while :; do n=$((n + 1)); echo $n >&3; \
    mkdir tree || echo mkdir; \
    for i in 1 2 3 4 5 6; do \
    set -C; head -c 20000 /dev/urandom > tree/$i || echo create $i; set +C; \
    cp tree/$i /tmp/$i || echo read $i; ln tree/$i tree/l$i || echo link $i; \
    mv tree/$i tree/m$i || echo move $i; ln -s m$i tree/s$i || echo symlink $i; done; \
    echo 3 > /proc/sys/vm/drop_caches; \
    for i in 1 2 3 4 5 6; do cmp tree/s$i /tmp/$i || echo differs $i; \
    rm tree/m$i tree/l$i tree/s$i || echo remove $i; done; \
    rmdir tree || echo rmdir; \
    test $(tail -n 1 log) = $n && test $(wc -l < log) = $n || echo the log is wrong; \
    echo done; done";

/// A line for each answer of the gateway. One that is lost with a device costs a second.
const NETWORK: &str = "while :; do ping -c 1 -W 1 10.0.2.2 >/dev/null && echo done; done";

/// A command of which every line is to say `done`.
struct Loop {
    child: Child,
    lines: Arc<AtomicU64>,
    reader: JoinHandle<String>,
}

impl Loop {
    fn start(machine: &Machine, script: &str) -> Self {
        let mut command = machine.command("sh");
        command.args(["-c", script]);
        command
            .stdin(Stdio::Null)
            .stdout(Stdio::Piped)
            .stderr(Stdio::Inherit);
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let lines = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            let mut said = String::new();
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut bytes) {
                said.push_str(&String::from_utf8_lossy(&bytes[..length]));
                counter.store(said.lines().count() as u64, Ordering::Relaxed);
            }
            said
        });
        Self {
            child,
            lines,
            reader,
        }
    }

    /// It goes on, and has never said anything else.
    fn end(mut self, what: &str) {
        let before = self.lines.load(Ordering::Relaxed);
        assert!(before > 0, "{what} has done nothing");
        eventually(&format!("{what} stands still"), || {
            self.lines.load(Ordering::Relaxed) > before
        });
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let said = self.reader.join().unwrap();
        let wrong: Vec<_> = said.lines().filter(|line| *line != "done").collect();
        assert!(wrong.is_empty(), "{what}: {wrong:?}");
    }
}

/// A stream through the guest and back that never ends, and loses nothing.
struct Echo {
    child: Child,
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    threads: [JoinHandle<()>; 2],
}

/// The stream's byte at this place: no two pieces are alike.
fn byte(place: u64) -> u8 {
    (place ^ place >> 8 ^ place >> 16).to_le_bytes()[0]
}

impl Echo {
    fn start(machine: &Machine) -> Self {
        let mut command = machine.command("cat");
        command.stdin(Stdio::Piped).stdout(Stdio::Piped);
        let mut child = command.spawn().unwrap();
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let bytes = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&bytes));
        let writer = thread::spawn(move || {
            let mut place = 0;
            while !stopped.load(Ordering::Relaxed) {
                let piece: Vec<u8> = (place..place + 5000).map(byte).collect();
                to.write_all(&piece).unwrap();
                place += 5000;
            }
        });
        let reader = thread::spawn(move || {
            let mut piece = vec![0; 64 << 10];
            let mut place = 0;
            while let Ok(length @ 1..) = from.read(&mut piece) {
                for found in &piece[..length] {
                    assert_eq!(*found, byte(place), "at byte {place}");
                    place += 1;
                }
                counter.store(place, Ordering::Relaxed);
            }
        });
        Self {
            child,
            stop,
            bytes,
            threads: [writer, reader],
        }
    }

    fn end(mut self) -> u64 {
        let before = self.bytes.load(Ordering::Relaxed);
        eventually("the stream stands still", || {
            self.bytes.load(Ordering::Relaxed) > before
        });
        self.stop.store(true, Ordering::Relaxed);
        let [writer, reader] = self.threads;
        writer.join().unwrap();
        assert!(self.child.wait().unwrap().success());
        reader.join().unwrap();
        self.bytes.load(Ordering::Relaxed)
    }
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[expect(clippy::print_stdout, reason = "numbers for who asked for many kills")]
fn devices_that_are_killed_at_random_under_load_lose_nothing() {
    let kills = env::var("CRUMBLE_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let share = tempfile::tempdir().unwrap();
    let machine = Machine::builder("busybox".parse().unwrap())
        .programs(programs())
        .disk(disk.path().to_str().unwrap().parse().unwrap())
        .share(
            format!("{}:/share", share.path().display())
                .parse()
                .unwrap(),
        );
    let machine = machine.start().unwrap();
    let disks = Loop::start(&machine, DISK);
    let network = Loop::start(&machine, NETWORK);
    let files = Loop::start(&machine, FILES);
    let echo = Echo::start(&machine);
    let (processes, descriptors) = (machine.processes().len(), open_files());

    let mut times = Vec::new();
    for number in 0..kills {
        let chance = RandomState::new().build_hasher().finish();
        thread::sleep(PAUSE + Duration::from_millis(chance % 200));
        let name = VICTIMS[usize::try_from(number % 4).unwrap()];
        let pid = |machine: &Machine| {
            let processes = machine.processes();
            processes
                .iter()
                .find(|process| process.name == name)
                .map(|process| process.pid)
        };
        let victim = pid(&machine).unwrap();
        let begin = Instant::now();
        kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
        eventually("there is no successor", || {
            pid(&machine).is_some_and(|pid| pid != victim)
        });
        times.push(begin.elapsed());
        assert_eq!(machine.try_wait().unwrap(), None);
    }

    disks.end("the disk");
    network.end("the network");
    files.end("the share");
    let bytes = echo.end();
    let said = machine.command("dmesg").output().unwrap().stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(
        !said.contains("I/O error") && !said.contains("hung_task"),
        "{said}"
    );
    eventually("processes are left", || {
        machine.processes().len() == processes
    });
    // Two streams fewer than when they were counted, and three loops.
    assert!(
        open_files() <= descriptors,
        "{} files are open, and were {descriptors}",
        open_files()
    );
    machine.shutdown().unwrap();
    times.sort_unstable();
    let middle = times[times.len() / 2];
    println!("{kills} kills, {bytes} bytes there and back, a successor after {middle:?} (median)");
}
