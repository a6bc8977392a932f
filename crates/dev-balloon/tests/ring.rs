//! What a driver says of free pages, and nonsense.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use dev_balloon::Balloon;
use device::serve::Server;
use vq_driver::{Buffer, Driver, F_EVENT_IDX, Setup};

const PATIENCE: Duration = Duration::from_secs(20);

/// VIRTIO_BALLOON_F_REPORTING.
const REPORTING: u64 = 1 << 5;

const INFLATE: usize = 0;
const REPORTS: usize = 2;

/// More than the rings take, which are first used meanwhile.
const RINGS: u64 = 64 << 10;

/// What Linux reports at a time on x86-64.
const BLOCK: usize = 2 << 20;

fn start() -> Driver {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let socket = UnixStream::connect(&path).unwrap();
    // It ends with the driver's connection.
    std::thread::spawn(move || Server::new(Balloon, listener).and_then(Server::serve));
    let setup = Setup {
        queues: &[128; 3],
        features: REPORTING | F_EVENT_IDX,
        memory: 32 << 20,
        patience: PATIENCE,
    };
    let driver = Driver::start(socket, &setup).unwrap();
    assert_eq!(driver.features & REPORTING, REPORTING);
    driver
}

/// Puts buffers of these lengths into a queue, and waits until they are back.
fn tell(driver: &mut Driver, queue: usize, buffers: &[Buffer]) {
    let queue = &mut driver.queues[queue];
    let head = queue.add(buffers).unwrap();
    queue.kick().unwrap();
    let used = queue.wait(PATIENCE).unwrap();
    assert_eq!((used.head, used.written), (head, 0));
}

/// Bytes of the host that the guest's memory takes.
fn taken(driver: &Driver) -> u64 {
    let file = driver.memory.fd().try_clone_to_owned().unwrap();
    File::from(file).metadata().unwrap().blocks() * 512
}

fn filled(driver: &Driver, blocks: usize) -> u64 {
    let at = driver.memory.allocate(blocks * BLOCK).unwrap();
    driver.memory.write(at, &vec![7; blocks * BLOCK]).unwrap();
    at
}

fn bytes(driver: &Driver, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    driver.memory.read(at, &mut bytes).unwrap();
    bytes
}

fn block() -> u32 {
    u32::try_from(BLOCK).unwrap()
}

fn after(at: u64, blocks: usize) -> u64 {
    at + u64::try_from(blocks * BLOCK).unwrap()
}

#[test]
fn reported_pages_are_the_hosts_and_no_others() {
    let mut driver = start();
    let at = filled(&driver, 5);
    let before = taken(&driver);
    let [second, fourth] = [1, 3].map(|number| Buffer::writable(after(at, number), block()));
    tell(&mut driver, REPORTS, &[second, fourth]);
    let gone = before - taken(&driver);
    assert!(gone.abs_diff(2 * u64::from(block())) < RINGS, "{gone}");
    for number in 0..5 {
        let expected = if [1, 3].contains(&number) { 0 } else { 7 };
        let found = bytes(&driver, after(at, number), BLOCK);
        assert!(found.iter().all(|byte| *byte == expected), "{number}");
    }
    // They are there again when they are used.
    driver.memory.write(after(at, 1), &[9; 100]).unwrap();
    assert_eq!(bytes(&driver, after(at, 1), 100), [9; 100]);
}

#[test]
fn what_is_no_report_changes_nothing() {
    let mut driver = start();
    let at = filled(&driver, 1);
    let before = taken(&driver);
    // Page numbers for a balloon that nobody asked for, and pages that may not be written.
    tell(&mut driver, INFLATE, &[Buffer::readable(at, 4096)]);
    tell(&mut driver, REPORTS, &[Buffer::readable(at, block())]);
    // Outside of memory: all of it, its end, and an address that wraps around.
    let end = after(at, 16);
    for outside in [1 << 40, end - 4096, u64::MAX - 4095] {
        tell(&mut driver, REPORTS, &[Buffer::writable(outside, block())]);
    }
    // Less than a page reads as zeros, and takes what it took.
    tell(&mut driver, REPORTS, &[Buffer::writable(at + 100, 50)]);
    assert!(taken(&driver) >= before);
    let mut expected = vec![7; BLOCK];
    expected[100..150].fill(0);
    assert!(bytes(&driver, at, BLOCK) == expected);
    // And it goes on.
    tell(&mut driver, REPORTS, &[Buffer::writable(at, block())]);
    assert!(taken(&driver) < before);
}
