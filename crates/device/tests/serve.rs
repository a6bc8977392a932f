//! The run-time with a device of a few lines behind it, and a driver in front.

#![cfg(feature = "serve")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::Duration;

use device::serve::{Device, Error, Event, Queue, Server, Stopper};
use vq_driver::{Buffer, Driver, F_EVENT_IDX, F_VERSION_1, Setup};

const PATIENCE: Duration = Duration::from_secs(10);

/// Answers each chain with what it read, in capitals.
struct Shout;

impl Device for Shout {
    fn features(&self) -> u64 {
        1 << 5
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![256, 64]
    }

    fn config(&self) -> Vec<u8> {
        vec![1, 2, 3]
    }

    fn reset(&mut self) {}

    fn process(&mut self, _event: Event, queues: &mut [Queue<'_>]) -> bool {
        for queue in queues {
            let memory = queue.memory();
            while let Some(chain) = queue.pop() {
                let mut text = Vec::new();
                chain
                    .reader(&memory)
                    .unwrap()
                    .read_to_end(&mut text)
                    .unwrap();
                text.make_ascii_uppercase();
                chain.writer(&memory).unwrap().write_all(&text).unwrap();
                queue.push(&chain, text.len() as u32);
            }
        }
        false
    }
}

fn start() -> (UnixStream, Stopper, JoinHandle<Result<(), Error>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    let server = Server::new(Shout, OwnedFd::from(listener)).unwrap();
    let stopper = server.stopper();
    (stream, stopper, std::thread::spawn(|| server.serve()))
}

fn shout(driver: &mut Driver, index: usize, text: &[u8]) -> Vec<u8> {
    let input = driver.memory.allocate(text.len()).unwrap();
    let output = driver.memory.allocate(text.len()).unwrap();
    driver.memory.write(input, text).unwrap();
    let length = text.len() as u32;
    let queue = &mut driver.queues[index];
    queue
        .add(&[
            Buffer::readable(input, length),
            Buffer::writable(output, length),
        ])
        .unwrap();
    queue.kick().unwrap();
    let used = queue.wait(PATIENCE).unwrap();
    let mut answer = vec![0; used.written as usize];
    driver.memory.read(output, &mut answer).unwrap();
    answer
}

#[test]
fn the_devices_features_are_offered_with_the_run_times() {
    let (stream, _, _) = start();
    let frontend = vq_driver::Frontend::new(stream, PATIENCE).unwrap();
    let features = frontend.features().unwrap();
    assert_eq!(features & (1 << 5), 1 << 5);
    assert_eq!(features & F_VERSION_1, F_VERSION_1);
    assert_eq!(features & F_EVENT_IDX, F_EVENT_IDX);
}

#[test]
fn every_queue_is_served_with_and_without_the_event_index() {
    for features in [0, F_EVENT_IDX] {
        let (stream, _, server) = start();
        let setup = Setup {
            queues: &[256, 64],
            features,
            ..Setup::default()
        };
        let mut driver = Driver::start(stream, &setup).unwrap();
        for round in 0..300 {
            assert_eq!(shout(&mut driver, round % 2, b"louder"), b"LOUDER");
        }
        drop(driver);
        server.join().unwrap().unwrap();
    }
}

#[test]
fn reads_of_the_configuration_space_stay_within_it() {
    let (stream, _, _) = start();
    let driver = Driver::start(
        stream,
        &Setup {
            queues: &[8, 8],
            ..Setup::default()
        },
    )
    .unwrap();
    let config = |offset, length| driver.frontend.config(offset, length).unwrap();
    assert_eq!(config(0, 3), [1, 2, 3]);
    assert_eq!(config(1, 4), [2, 3, 0, 0]);
    assert_eq!(config(200, 2), [0, 0]);
}

#[test]
fn memory_that_is_replaced_while_the_queues_run_is_used() {
    let (stream, _, _) = start();
    let setup = Setup {
        queues: &[8, 8],
        ..Setup::default()
    };
    let mut driver = Driver::start(stream, &setup).unwrap();
    assert_eq!(shout(&mut driver, 0, b"before"), b"BEFORE");
    driver.frontend.set_memory(&driver.memory).unwrap();
    assert_eq!(shout(&mut driver, 0, b"after"), b"AFTER");
}

#[test]
fn a_ring_larger_than_the_device_allows_is_refused() {
    let (stream, _, _) = start();
    let driver = Driver::start(
        stream,
        &Setup {
            queues: &[8, 8],
            ..Setup::default()
        },
    )
    .unwrap();
    assert!(driver.frontend.set_ring_size(0, 512).is_err());
}

#[test]
fn the_stopper_ends_the_service_before_and_after_a_front_end_came() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = Server::new(Shout, OwnedFd::from(listener)).unwrap();
    let stopper = server.stopper();
    let serving = std::thread::spawn(|| server.serve());
    std::thread::sleep(Duration::from_millis(20));
    stopper.stop();
    serving.join().unwrap().unwrap();

    let (stream, stopper, serving) = start();
    let _driver = Driver::start(
        stream,
        &Setup {
            queues: &[8, 8],
            ..Setup::default()
        },
    )
    .unwrap();
    stopper.stop();
    serving.join().unwrap().unwrap();
}
