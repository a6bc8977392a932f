//! What a guest does to its block device: descriptors, rings and requests as it likes. Afterwards a
//! driver that behaves is served, and no file is longer or shorter than it was.
#![no_main]
#![allow(dead_code, reason = "the tests' modules have more than is used here")]

#[path = "../../crates/dev-block/tests/guest/mod.rs"]
mod guest;

use dev_block::request::{Header, kind};
use guest::{ALL, Guest, Host, config, handles};
use libfuzzer_sys::fuzz_target;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vq_driver::{Descriptor, Driver, Setup};

/// Where requests and tables lie.
const ROOM: usize = 1 << 16;

/// Sectors of the extents.
const EXTENTS: [u64; 3] = [8, 16, 5];

const KINDS: [u32; 8] = [
    kind::IN,
    kind::OUT,
    kind::FLUSH,
    kind::GET_ID,
    kind::DISCARD,
    kind::WRITE_ZEROES,
    kind::IN,
    kind::OUT,
];

/// A driver without manners.
struct Wild {
    driver: Driver,
    room: u64,
}

impl Wild {
    fn start(host: &Host, features: u64) -> Self {
        let setup = Setup {
            memory: 16 << 20,
            queues: &[128, 128],
            features,
            ..Setup::default()
        };
        let driver = Driver::start(host.socket.try_clone().unwrap(), &setup).unwrap();
        let room = driver.memory.allocate(ROOM).unwrap();
        Self { driver, room }
    }

    /// Gives back what came; what is in it does not matter.
    fn receive(&mut self) {
        for queue in &mut self.driver.queues {
            while let Ok(Some(_)) = queue.used() {}
        }
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
        let mut head = 0;
        for _ in 0..count % 8 {
            let (index, descriptor) = self.descriptor(input);
            let queue = &mut self.driver.queues[usize::from(queue % 2)];
            let index = index % queue.size();
            queue.write_descriptor(index, descriptor).unwrap();
            head = index;
        }
        self.submit(usize::from(queue % 2), head);
    }

    fn submit(&mut self, queue: usize, head: u16) {
        let queue = &mut self.driver.queues[queue];
        queue.expect_head(head);
        queue.publish(head).unwrap();
        queue.kick_anyway().unwrap();
    }

    /// A request that is right but for what the input changes: its header, then ranges or data, then
    /// room for what comes back.
    fn request(&mut self, input: &mut Input<'_>) {
        let [what, sector, count, flags, output, back, at, change] = input.take();
        let header = Header {
            kind: KINDS[usize::from(what % 8)],
            sector: u64::from(sector % 40),
        };
        let mut bytes = header.encode().to_vec();
        if what & 8 != 0 {
            bytes.extend(u64::from(sector % 40).to_le_bytes());
            bytes.extend(u32::from(count).to_le_bytes());
            bytes.extend(u32::from(flags).to_le_bytes());
        }
        if what & 16 != 0 {
            bytes.resize(bytes.len() + usize::from(output % 40) * 512, change);
        }
        if what & 32 != 0 {
            let at = usize::from(at) % bytes.len();
            bytes[at] ^= change;
        }
        self.driver.memory.write(self.room, &bytes).unwrap();
        let readable = Descriptor {
            address: self.room,
            length: u32::try_from(bytes.len()).unwrap(),
            flags: vq_driver::F_NEXT,
            next: 127,
        };
        let writable = Descriptor {
            address: self.room + 0x8000,
            length: match what & 64 {
                0 => u32::from(back % 40) * 512 + 1,
                _ => u32::from(back),
            },
            flags: vq_driver::F_WRITE,
            next: 0,
        };
        let queue = &self.driver.queues[0];
        queue.write_descriptor(126, readable).unwrap();
        queue.write_descriptor(127, writable).unwrap();
        self.submit(0, 126);
    }

    /// A new driver takes over.
    fn reset(&mut self) {
        for index in 0..2_u8 {
            self.driver.frontend.stop_ring(index.into()).unwrap();
            self.driver.queues[usize::from(index)].reset().unwrap();
        }
        for index in 0..2 {
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
    let mut input = Input(bytes);
    let [features] = input.take();
    let mut config = config(&EXTENTS);
    config.queues = 2;
    let files = guest::files(&config);
    let host = Host::start(config, handles(&files));
    let features = if features & 1 == 0 { ALL } else { 0 };
    let mut wild = Wild::start(&host, features);
    while !input.0.is_empty() {
        let [what] = input.take();
        match what % 8 {
            0..4 => wild.request(&mut input),
            4..6 => wild.chain(&mut input),
            6 => wild.receive(),
            _ => wild.reset(),
        }
    }
    wild.reset();
    let mut guest = Guest::over(wild.driver);
    guest.assert_served();
    drop(guest);
    host.socket.shutdown(std::net::Shutdown::Both).unwrap();
    host.end().unwrap();
    for (file, sectors) in files.iter().zip(EXTENTS) {
        assert_eq!(file.metadata().unwrap().len(), sectors * 512);
    }
});
