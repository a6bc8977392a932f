//! A driver's talk with the device over its rings, what it types and reads, and nonsense.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use dev_console::control::{Control, event};
use dev_console::{Console, Port};
use device::serve::Server;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use proptest::prelude::*;
use vq_driver::{Buffer, Driver, F_EVENT_IDX, Setup};
use wire::console::{Input, LONGEST};

const PATIENCE: Duration = Duration::from_secs(20);

/// VIRTIO_CONSOLE_F_SIZE and VIRTIO_CONSOLE_F_MULTIPORT.
const FEATURES: u64 = 3 | F_EVENT_IDX;

const TO_DRIVER: usize = 2;
const FROM_DRIVER: usize = 3;

/// The receive and transmit queues of two ports.
const PORTS: [(usize, usize); 2] = [(0, 1), (4, 5)];

/// The length of each buffer.
const ROOM: u32 = 4096;

struct Guest {
    driver: Driver,
    /// The other ends of the ports.
    hosts: Vec<UnixStream>,
}

impl Guest {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let socket = UnixStream::connect(&path).unwrap();
        let mut hosts = Vec::new();
        let ports = ["first", "second"].map(|name| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
            let (ours, theirs) = pair.unwrap();
            hosts.push(UnixStream::from(ours));
            Port::new(name.to_owned(), theirs)
        });
        let console = Console::new(ports.into());
        // It ends with the driver's connection.
        std::thread::spawn(move || {
            Server::new(console, OwnedFd::from(listener)).and_then(Server::serve)
        });
        let setup = Setup {
            queues: &[64; 6],
            features: FEATURES,
            memory: 8 << 20,
            patience: PATIENCE,
        };
        let driver = Driver::start(socket, &setup).unwrap();
        Self { driver, hosts }
    }

    /// Makes a buffer available for the device to fill.
    fn offer(&mut self, queue: usize, length: u32) -> u64 {
        let at = self.driver.memory.allocate(length as usize).unwrap();
        let queue = &mut self.driver.queues[queue];
        queue.add(&[Buffer::writable(at, length)]).unwrap();
        queue.kick().unwrap();
        at
    }

    /// What the device fills the next buffer with.
    fn take(&mut self, queue: usize, at: u64) -> Vec<u8> {
        let used = self.driver.queues[queue].wait(PATIENCE).unwrap();
        let mut bytes = vec![0; used.written as usize];
        self.driver.memory.read(at, &mut bytes).unwrap();
        bytes
    }

    /// Sends the device bytes; it has taken them when this returns.
    fn send(&mut self, queue: usize, bytes: &[u8]) {
        self.post(queue, bytes);
        self.driver.queues[queue].wait(PATIENCE).unwrap();
    }

    fn post(&mut self, queue: usize, bytes: &[u8]) {
        let length = bytes.len() as u32;
        let at = self.driver.memory.allocate(bytes.len().max(1)).unwrap();
        self.driver.memory.write(at, bytes).unwrap();
        let queue = &mut self.driver.queues[queue];
        queue.add(&[Buffer::readable(at, length)]).unwrap();
        queue.kick().unwrap();
    }

    fn say(&mut self, id: u32, event: u16, value: u16) {
        self.send(FROM_DRIVER, &Control { id, event, value }.encode(&[]));
    }

    /// The control messages to the driver that these buffers are filled with.
    fn told(&mut self, buffers: &[u64]) -> Vec<(u32, u16, Vec<u8>)> {
        let told = buffers.iter().map(|at| {
            let message = self.take(TO_DRIVER, *at);
            let (head, rest) = message.split_first_chunk().unwrap();
            let control = Control::parse(*head);
            (control.id, control.event, rest.to_vec())
        });
        told.collect()
    }
}

#[test]
fn ports_are_added_named_and_opened_for_a_driver_that_asks() {
    let mut guest = Guest::start();
    let buffers: Vec<_> = (0..5).map(|_| guest.offer(TO_DRIVER, ROOM)).collect();
    guest.say(0, event::DEVICE_READY, 1);
    guest.say(1, event::PORT_READY, 1);
    let expected = [
        (0, event::PORT_ADD, vec![]),
        (1, event::PORT_ADD, vec![]),
        (1, event::CONSOLE_PORT, vec![]),
        (1, event::PORT_NAME, b"second".to_vec()),
        (1, event::PORT_OPEN, vec![]),
    ];
    assert_eq!(guest.told(&buffers), expected);
}

#[test]
fn an_answer_waits_for_buffers_and_is_whole() {
    let mut guest = Guest::start();
    let mut buffers = vec![guest.offer(TO_DRIVER, ROOM), guest.offer(TO_DRIVER, ROOM)];
    let ready = Control {
        id: 0,
        event: event::PORT_READY,
        value: 1,
    };
    guest.post(FROM_DRIVER, &ready.encode(&[]));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(guest.driver.queues[FROM_DRIVER].used().unwrap(), None);
    assert_eq!(guest.driver.queues[TO_DRIVER].used().unwrap(), None);
    buffers.push(guest.offer(TO_DRIVER, ROOM));
    guest.driver.queues[FROM_DRIVER].wait(PATIENCE).unwrap();
    assert_eq!(guest.told(&buffers).len(), 3);
}

#[test]
fn what_is_typed_arrives_in_order_whatever_the_buffers() {
    let mut guest = Guest::start();
    for (port, (queue, _)) in PORTS.into_iter().enumerate() {
        let typed: Vec<u8> = (0..900_u32).map(|n| n as u8).collect();
        let mut host = &guest.hosts[port];
        host.write_all(&Input::Bytes(&typed[..400]).encode())
            .unwrap();
        host.write_all(&Input::Bytes(&typed[400..]).encode())
            .unwrap();
        let mut arrived = Vec::new();
        for length in [1, 300, 7, 4096, 4096] {
            let at = guest.offer(queue, length);
            arrived.extend(guest.take(queue, at));
        }
        assert_eq!(arrived, typed, "{port}");
    }
}

#[test]
fn what_the_guest_writes_arrives_or_is_lost_and_never_waits() {
    let mut guest = Guest::start();
    let (_, queue) = PORTS[1];
    guest.send(queue, &[b'x'; 3000]);
    let mut message = [0; LONGEST + 1];
    for expected in [1024, 1024, 952] {
        assert_eq!(guest.hosts[1].read(&mut message).unwrap(), expected);
    }
    // Nobody reads: more than a socket holds is taken all the same.
    for _ in 0..300 {
        guest.send(queue, &[b'y'; 4096]);
    }
    guest.hosts[1].set_nonblocking(true).unwrap();
    let mut heard = 0;
    while let Ok(length) = guest.hosts[1].read(&mut message) {
        heard += length;
    }
    assert!(heard > 0 && heard < 300 * 4096, "{heard}");
    guest.send(queue, b"again");
    assert_eq!(guest.hosts[1].read(&mut message).unwrap(), 5);
}

#[test]
fn a_size_is_told_once_there_is_a_buffer_for_it() {
    let mut guest = Guest::start();
    let typing = guest.offer(PORTS[1].0, ROOM);
    let size = Input::Size {
        rows: 24,
        columns: 258,
    };
    (&guest.hosts[1]).write_all(&size.encode()).unwrap();
    (&guest.hosts[1])
        .write_all(&Input::Bytes(b"a").encode())
        .unwrap();
    assert_eq!(guest.take(PORTS[1].0, typing), b"a");
    let buffer = guest.offer(TO_DRIVER, ROOM);
    // Columns, then rows (virtio 1.2, section 5.3.6.2).
    let expected = [(1, event::RESIZE, vec![2, 1, 24, 0])];
    assert_eq!(guest.told(&[buffer]), expected);
}

#[test]
fn nonsense_from_the_host_and_an_end_that_is_gone_cost_nothing_else() {
    let mut guest = Guest::start();
    let (receive, transmit) = PORTS[0];
    for nonsense in [&[9, 9, 9][..], &[1], &[7; LONGEST + 500]] {
        (&guest.hosts[0]).write_all(nonsense).unwrap();
    }
    (&guest.hosts[0])
        .write_all(&Input::Bytes(b"sense").encode())
        .unwrap();
    let at = guest.offer(receive, ROOM);
    assert_eq!(guest.take(receive, at), b"sense");
    drop(guest.hosts.remove(0));
    guest.offer(receive, ROOM);
    guest.send(transmit, b"to nobody");
    guest.send(PORTS[1].1, b"to somebody");
    let mut message = [0; LONGEST];
    assert_eq!(guest.hosts[0].read(&mut message).unwrap(), 11);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_a_driver_says_ends_the_device(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..24), 0..40),
        known in prop::collection::vec((0_u32..4, 0_u16..10, 0_u16..3), 0..20),
    ) {
        let mut guest = Guest::start();
        for _ in 0..40 {
            guest.offer(TO_DRIVER, 16);
        }
        let known = known.into_iter().map(|(id, event, value)| Control { id, event, value });
        let known: Vec<_> = known.map(|control| control.encode(&[])).collect();
        for message in messages.iter().chain(&known).take(60) {
            guest.post(FROM_DRIVER, message);
        }
        guest.send(PORTS[0].1, b"alive");
        let mut message = [0; LONGEST];
        prop_assert_eq!(guest.hosts[0].read(&mut message).unwrap(), 5);
        guest.hosts[0].set_nonblocking(true).unwrap();
        let more = guest.hosts[0].read(&mut message).map_err(|error| error.kind());
        prop_assert_eq!(more, Err(ErrorKind::WouldBlock));
    }
}
