//! What a guest does to its vsock device: descriptors, rings and packets as it likes, with streams of
//! the host in between. Afterwards a driver that behaves is served.
#![no_main]
#![allow(dead_code, reason = "the tests' modules have more than is used here")]

#[path = "../../crates/dev-vsock/tests/guest/mod.rs"]
mod guest;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use dev_vsock::request::{HOST_CID, TYPE_STREAM};
use guest::{CID, Guest, Host, Layout};
use libfuzzer_sys::fuzz_target;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vq_driver::{Descriptor, Driver, Setup};

/// Receive buffers, each a descriptor of its own.
const RECEIVE: u16 = 16;
const RECEIVE_SIZE: u32 = 1024;

/// Where packets and tables lie.
const ROOM: usize = 1 << 16;

/// A driver without manners.
struct Wild {
    driver: Driver,
    buffers: u64,
    room: u64,
}

impl Wild {
    fn start(host: &Host) -> Self {
        let setup = Setup {
            memory: 16 << 20,
            queues: &[128, 128, 16],
            ..Setup::default()
        };
        let driver = Driver::start(host.socket.try_clone().unwrap(), &setup).unwrap();
        let size = usize::from(RECEIVE) * RECEIVE_SIZE as usize;
        let (buffers, room) = (driver.memory.allocate(size), driver.memory.allocate(ROOM));
        let mut wild = Self {
            driver,
            buffers: buffers.unwrap(),
            room: room.unwrap(),
        };
        for head in 0..RECEIVE {
            wild.offer(head);
        }
        wild
    }

    fn offer(&mut self, head: u16) {
        let descriptor = Descriptor {
            address: self.buffers + u64::from(head) * u64::from(RECEIVE_SIZE),
            length: RECEIVE_SIZE,
            flags: vq_driver::F_WRITE,
            next: 0,
        };
        let queue = &mut self.driver.queues[0];
        queue.write_descriptor(head, descriptor).unwrap();
        queue.expect_head(head);
        queue.publish(head).unwrap();
        queue.kick_anyway().unwrap();
    }

    /// Gives back what came; what is in it does not matter.
    fn receive(&mut self) {
        while let Ok(Some(used)) = self.driver.queues[0].used() {
            self.offer(used.head % RECEIVE);
        }
        while let Ok(Some(_)) = self.driver.queues[1].used() {}
    }

    /// A descriptor that may point anywhere, but mostly into the room.
    fn descriptor(&self, input: &mut Input<'_>) -> (u16, Descriptor) {
        let [index, flags, next, wild] = input.take();
        let offset = u64::from(u16::from_le_bytes(input.take()));
        let address = match wild {
            0xff => u64::from_le_bytes(input.take()),
            _ => self.room + offset,
        };
        let length = match wild {
            0xfe => u32::from_le_bytes(input.take()),
            _ => u32::from(u16::from_le_bytes(input.take())),
        };
        let descriptor = Descriptor {
            address,
            length,
            flags: u16::from(flags),
            next: u16::from(next),
        };
        (u16::from(index), descriptor)
    }

    fn chain(&mut self, input: &mut Input<'_>) {
        let [queue, count] = input.take();
        let queue = usize::from(queue % 3);
        let mut head = 0;
        for _ in 0..count % 8 {
            let (index, descriptor) = self.descriptor(input);
            let queue = &mut self.driver.queues[queue];
            let index = index % queue.size();
            queue.write_descriptor(index, descriptor).unwrap();
            head = index;
        }
        let queue = &mut self.driver.queues[queue];
        queue.expect_head(head);
        queue.publish(head).unwrap();
        queue.kick_anyway().unwrap();
    }

    /// A packet in one piece; its header is right but for what the input changes.
    fn packet(&mut self, input: &mut Input<'_>) {
        let [op, ports, flags, length, at, change] = input.take();
        let mut header = Vec::new();
        header.extend(CID.to_le_bytes());
        header.extend(HOST_CID.to_le_bytes());
        header.extend(u32::from(ports & 3).to_le_bytes());
        header.extend((guest::PORT + u32::from(ports >> 6)).to_le_bytes());
        header.extend(u32::from(length).to_le_bytes());
        header.extend(TYPE_STREAM.to_le_bytes());
        header.extend(u16::from(op % 9).to_le_bytes());
        header.extend(u32::from(flags & 3).to_le_bytes());
        header.extend((1_u32 << (flags >> 3)).to_le_bytes());
        header.extend(u32::from_le_bytes(input.take()).to_le_bytes());
        if flags & 4 != 0 {
            let at = usize::from(at) % header.len();
            header[at] ^= change;
        }
        header.resize(header.len() + usize::from(length), change);
        self.driver.memory.write(self.room, &header).unwrap();
        let descriptor = Descriptor {
            address: self.room,
            length: u32::try_from(header.len()).unwrap(),
            ..Descriptor::default()
        };
        let queue = &mut self.driver.queues[1];
        queue.write_descriptor(127, descriptor).unwrap();
        queue.expect_head(127);
        queue.publish(127).unwrap();
        queue.kick_anyway().unwrap();
    }

    /// A new driver takes over.
    fn reset(&mut self) {
        for index in 0..3u8 {
            self.driver.frontend.stop_ring(index.into()).unwrap();
            self.driver.queues[usize::from(index)].reset().unwrap();
        }
        for index in 0..3 {
            self.driver.start_queue(index, 0).unwrap();
        }
    }
}

/// The input, and zeros for ever after.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (now, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..now.len()].copy_from_slice(now);
        bytes
    }
}

fn step(wild: &mut Wild, host: &Host, streams: &mut Vec<UnixStream>, input: &mut Input<'_>) {
    let [what] = input.take();
    match what % 9 {
        0 | 1 => wild.packet(input),
        2 => wild.chain(input),
        3 => streams.push(host.connect(u32::from(what >> 5))),
        4 => {
            let chunk = vec![what; usize::from(what) * 64];
            for stream in streams.iter_mut() {
                let _ = stream.write(&chunk);
            }
        }
        5 => {
            for stream in streams.iter_mut() {
                let _ = stream.read(&mut [0; 512]);
            }
        }
        6 => drop(streams.pop()),
        7 => wild.receive(),
        _ => {
            wild.reset();
            for head in 0..RECEIVE {
                wild.offer(head);
            }
        }
    }
    while let Ok(accepted) = host.accepted.try_recv() {
        streams.push(accepted.theirs);
    }
    for stream in streams.iter_mut() {
        stream.set_nonblocking(true).unwrap();
    }
}

/// Each server leaves an eventfd open when it ends (vhost-user-backend 0.24), which a process that
/// serves once does not mind. The superuser can have enough for a night, others for some minutes.
fn more_descriptors() {
    const PLENTY: u64 = 1 << 20;
    if setrlimit(Resource::RLIMIT_NOFILE, PLENTY, PLENTY).is_err() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    }
}

fuzz_target!(init: more_descriptors(), |bytes: &[u8]| {
    let host = Host::start();
    let mut wild = Wild::start(&host);
    let mut streams = Vec::new();
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        step(&mut wild, &host, &mut streams, &mut input);
    }
    drop(streams);
    wild.reset();
    let mut guest = Guest::over(wild.driver, Layout::Single, 4096 + 44);
    guest.assert_served(&host, 9999);
    guest.vanish();
    host.end().unwrap();
});
