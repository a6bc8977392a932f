//! A guest's block driver over `vq-driver`, and a device for it in a thread of the test.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dev_block::request::{Header, feature};
use dev_block::{Block, Disk};
use device::serve::Server;
use vq_driver::{Buffer, Driver, F_EVENT_IDX, F_INDIRECT_DESC, Setup};
use wire::block::{Config, Extent};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// What Linux' driver takes.
pub const ALL: u64 = feature::SEG_MAX
    | feature::RO
    | feature::BLK_SIZE
    | feature::FLUSH
    | feature::TOPOLOGY
    | feature::MQ
    | feature::DISCARD
    | feature::WRITE_ZEROES
    | F_EVENT_IDX
    | F_INDIRECT_DESC;

/// VIRTIO_BLK_S_*.
pub const OK: u8 = 0;
pub const IO_ERROR: u8 = 1;
pub const UNSUPPORTED: u8 = 2;

/// Guest memory for the data of one request, in each direction.
pub const ROOM: usize = 2 << 20;

pub fn config(extents: &[u64]) -> Config {
    Config {
        serial: "a disk".to_owned(),
        read_only: false,
        extents: extents.iter().map(|&sectors| Extent { sectors }).collect(),
        queues: 1,
    }
}

/// Files of nothing for the extents.
pub fn files(config: &Config) -> Vec<File> {
    let file = |extent: &Extent| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(extent.sectors * 512).unwrap();
        file
    };
    config.extents.iter().map(file).collect()
}

/// The same files, to be handed over.
pub fn handles(files: &[File]) -> Vec<OwnedFd> {
    let handle = |file: &File| file.try_clone().unwrap().into();
    files.iter().map(handle).collect()
}

/// A device that waits for a front end.
pub struct Host {
    pub socket: UnixStream,
    pub config: Config,
    server: Option<JoinHandle<Result<(), device::serve::Error>>>,
}

impl Host {
    pub fn start(config: Config, files: Vec<OwnedFd>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let socket = UnixStream::connect(&path).unwrap();
        let checked = config.clone().try_into().unwrap();
        let disk = Disk::new(&checked, files).unwrap();
        let block = Block::new(checked, disk);
        let server = std::thread::spawn(move || {
            Server::new(block, OwnedFd::from(listener)).and_then(Server::serve)
        });
        Self {
            socket,
            config,
            server: Some(server),
        }
    }

    /// Waits for the device to end by itself.
    pub fn end(mut self) -> Result<(), device::serve::Error> {
        let until = Instant::now() + PATIENCE;
        let server = self.server.take().unwrap();
        while !server.is_finished() {
            assert!(Instant::now() < until, "the device does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        server.join().unwrap()
    }
}

/// How a request lies in its descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Header, data and status in one each, as Linux does it.
    Plain,
    /// As few as possible: what is read in one, what is written in another.
    Joined,
    /// Cut where no field ends.
    Cut,
    /// As [`Layout::Plain`], in a table of its own.
    Indirect,
}

/// What the device answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u8,
    /// What the device says that it wrote.
    pub written: u32,
    pub data: Vec<u8>,
}

pub struct Guest {
    pub driver: Driver,
    /// A header and what the device reads.
    output: u64,
    /// What the device writes, and the status.
    input: u64,
    pub layout: Layout,
}

impl Guest {
    pub fn start(host: &Host) -> Self {
        let socket = host.socket.try_clone().unwrap();
        Self::start_with(socket, ALL, host.config.queues)
    }

    pub fn start_with(socket: UnixStream, features: u64, queues: u16) -> Self {
        let setup = Setup {
            queues: &vec![128; queues.into()],
            features,
            ..Setup::default()
        };
        Self::over(Driver::start(socket, &setup).unwrap())
    }

    pub fn over(driver: Driver) -> Self {
        let output = driver.memory.allocate(ROOM).unwrap();
        let input = driver.memory.allocate(ROOM).unwrap();
        Self {
            driver,
            output,
            input,
            layout: Layout::Plain,
        }
    }

    fn buffers(&self, output: u32, input: u32) -> Vec<Buffer> {
        let (from, to) = (self.output, self.input);
        match self.layout {
            Layout::Joined => vec![Buffer::readable(from, output), Buffer::writable(to, input)],
            Layout::Cut => {
                let mut buffers = pieces(output)
                    .map(|(at, length)| Buffer::readable(from + at, length))
                    .collect::<Vec<_>>();
                buffers.extend(pieces(input).map(|(at, length)| Buffer::writable(to + at, length)));
                buffers
            }
            Layout::Plain | Layout::Indirect => {
                let mut buffers = vec![
                    Buffer::readable(from, 16),
                    Buffer::readable(from + 16, output - 16),
                    Buffer::writable(to, input - 1),
                    Buffer::writable(to + u64::from(input) - 1, 1),
                ];
                buffers.retain(|buffer| buffer.length > 0);
                buffers
            }
        }
    }

    /// Has one request carried out by a queue.
    pub fn ask_by(&mut self, queue: usize, header: Header, output: &[u8], input: usize) -> Answer {
        let bytes = [&header.encode(), output].concat();
        let memory = self.driver.memory.clone();
        memory.write(self.output, &bytes).unwrap();
        memory.write(self.input, &vec![0xee; input + 1]).unwrap();
        let buffers = self.buffers(bytes.len() as u32, input as u32 + 1);
        let queue = &mut self.driver.queues[queue];
        if self.layout == Layout::Indirect {
            queue.add_indirect(&buffers).unwrap();
        } else {
            queue.add(&buffers).unwrap();
        }
        queue.kick().unwrap();
        let used = queue.wait(PATIENCE).unwrap();
        let mut data = vec![0; input + 1];
        memory.read(self.input, &mut data).unwrap();
        let status = data.pop().unwrap();
        Answer {
            status,
            written: used.written,
            data,
        }
    }

    pub fn ask(&mut self, kind: u32, sector: u64, output: &[u8], input: usize) -> Answer {
        self.ask_by(0, Header { kind, sector }, output, input)
    }

    /// Reads what must be readable.
    pub fn read(&mut self, sector: u64, sectors: usize) -> Vec<u8> {
        let answer = self.ask(0, sector, &[], sectors * 512);
        assert_eq!(answer.status, OK);
        assert_eq!(answer.written as usize, sectors * 512 + 1);
        answer.data
    }

    /// Asks for something that gives nothing back; the status.
    pub fn tell(&mut self, kind: u32, sector: u64, output: &[u8]) -> u8 {
        let answer = self.ask(kind, sector, output, 0);
        assert_eq!(answer.written, 1);
        answer.status
    }

    /// A request makes its way.
    pub fn assert_served(&mut self) {
        self.layout = Layout::Plain;
        assert_eq!(self.read(0, 1).len(), 512);
    }
}

/// Pieces of 1, 2, 4, ... bytes, at most 12.
fn pieces(length: u32) -> impl Iterator<Item = (u64, u32)> {
    let mut at = 0;
    (0..12).map_while(move |index| {
        let left = length - at;
        let size = if index == 11 {
            left
        } else {
            left.min(1 << index)
        };
        let piece = (u64::from(at), size);
        at += size;
        (size > 0).then_some(piece)
    })
}

/// An encoded range for discarding and zeroing.
pub fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}
