//! The device: request queues, and the disk behind them.

use std::io;

use device::serve::{Buffers, Chain, Device, Event, Memory, Queue};
use nix::errno::Errno;
use smallvec::SmallVec;
use wire::block::Config as Words;

use crate::backend::Disk;
use crate::config::Config;
use crate::request::{
    self, Clear, DISCARD_RANGES, DISCARD_SECTORS, Header, Range, Request, Rules, Status,
    ZERO_SECTORS, feature,
};

/// The driver sees requests as done when there are this many of them, or so many bytes were moved: it
/// has something to do while the next ones are carried out, and is not told of each.
const TOGETHER: usize = 16;
const TOGETHER_BYTES: usize = 1 << 18;

/// Requests taken from a queue before other events have their turn.
const TURN: usize = 128;

/// Buffers of a request: a chain has at most as many descriptors as its queue has entries, and one each
/// is the header's and the status's.
const SEGMENTS: u32 = Words::QUEUE_SIZE as u32 - 2;

/// A sector in bytes, and in sectors the pages of file systems, where a request begins best.
const SECTOR: u32 = 512;
const PAGE: u32 = 8;
const _: () = assert!(SECTOR as u64 == Words::SECTOR && PAGE as u64 == Words::ALIGNMENT);

/// The longest list of ranges, in bytes.
const RANGES: usize = DISCARD_RANGES as usize * Range::SIZE;

/// A virtio block device.
pub struct Block {
    config: Config,
    disk: Disk,
    /// What the driver agreed to.
    features: u64,
}

/// Requests that are done, and the driver does not know yet.
type Done = SmallVec<[(Chain, u32); TOGETHER]>;

impl Block {
    /// A device that serves `disk`, which was made with the same configuration.
    #[must_use]
    pub const fn new(config: Config, disk: Disk) -> Self {
        Self {
            config,
            disk,
            features: 0,
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            sectors: self.config.sectors(),
            features: self.features,
            read_only: self.config.read_only(),
        }
    }

    /// Carries out the requests of a queue; whether there may be more.
    fn serve(&self, queue: &mut Queue<'_>) -> bool {
        let memory = queue.memory();
        let mut done = Done::new();
        let mut moved = 0_usize;
        for _ in 0..TURN {
            let Some(chain) = queue.pop() else {
                give(queue, &mut done);
                return false;
            };
            let (written, bytes) = self.answer(&chain, &memory);
            done.push((chain, written));
            moved = moved.saturating_add(bytes);
            if done.len() >= TOGETHER || moved >= TOGETHER_BYTES {
                give(queue, &mut done);
                queue.notify();
                moved = 0;
            }
        }
        give(queue, &mut done);
        true
    }

    /// Carries out one request: how much of its writable part is written from the front on, and how
    /// many bytes were moved.
    fn answer(&self, chain: &Chain, memory: &Memory) -> (u32, usize) {
        // Without a byte for the status there is no way to answer.
        let Some(mut writable) = chain.writable(memory) else {
            return (0, 0);
        };
        let Some(room) = writable.len().checked_sub(1) else {
            return (0, 0);
        };
        let mut status = writable.split_off(room);
        let readable = chain.readable(memory).unwrap_or_default();
        let moved = room.saturating_add(readable.len());
        let (code, filled) = match self.carry_out(readable, writable) {
            Ok(filled) => (Status::Ok, filled),
            Err(code) => (code, 0),
        };
        status.fill(&[code as u8]);
        let written = filled.saturating_add(usize::from(filled == room));
        (u32::try_from(written).unwrap_or(u32::MAX), moved)
    }

    /// How much of `writable` is filled.
    fn carry_out(&self, mut readable: Buffers<'_>, writable: Buffers<'_>) -> Result<usize, Status> {
        let mut header = [0; Header::SIZE];
        if readable.peek(&mut header) < Header::SIZE {
            return Err(Status::IoError);
        }
        readable.advance(Header::SIZE);
        let rules = self.rules();
        let room = writable.len();
        let request = request::judge(Header::parse(header), readable.len(), room, &rules)?;
        match request {
            Request::Read { at } => {
                self.disk.read(at, writable).map_err(failure)?;
                return Ok(room);
            }
            Request::Write { at } => self.change(|disk| disk.write(at, readable))?,
            Request::Flush => self.disk.flush().map_err(failure)?,
            Request::Serial => return Ok({ writable }.fill(&self.config.serial())),
            Request::Clear(clear) => self.clear(clear, &readable, &rules)?,
        }
        Ok(0)
    }

    fn clear(&self, clear: Clear, readable: &Buffers<'_>, rules: &Rules) -> Result<(), Status> {
        let mut bytes = [0; RANGES];
        let count = readable.peek(&mut bytes);
        let ranges = request::ranges(bytes.get(..count).unwrap_or_default(), clear, rules)?;
        self.change(|disk| {
            ranges.into_iter().try_for_each(|range| match clear {
                Clear::Discard => disk.discard(range),
                Clear::Zero => disk.zero(range),
            })
        })
    }

    /// Changes the disk. A driver that cannot flush is told of it when it will survive the host
    /// (virtio 1.2, section 5.2.6.2).
    fn change(&self, how: impl FnOnce(&Disk) -> io::Result<()>) -> Result<(), Status> {
        how(&self.disk).map_err(failure)?;
        if self.features & feature::FLUSH == 0 {
            self.disk.flush().map_err(failure)?;
        }
        Ok(())
    }
}

/// Gives back what is done.
fn give(queue: &mut Queue<'_>, done: &mut Done) {
    if !done.is_empty() {
        queue.push_all(done.iter().map(|(chain, written)| (chain, *written)));
        done.clear();
    }
}

/// What the driver is told of a file's error.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failure(error: io::Error) -> Status {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EOPNOTSUPP) => Status::Unsupported,
        _ => Status::IoError,
    }
}

impl Device for Block {
    fn features(&self) -> u64 {
        let changes = if self.config.read_only() {
            feature::RO
        } else {
            feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES
        };
        let several = if self.config.queues() > 1 {
            feature::MQ
        } else {
            0
        };
        feature::SEG_MAX | feature::BLK_SIZE | feature::TOPOLOGY | changes | several
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![Words::QUEUE_SIZE; self.config.queues().into()]
    }

    /// `struct virtio_blk_config` (virtio 1.2, section 5.2.4) up to `write_zeroes_may_unmap` and its
    /// padding.
    fn config(&self) -> Vec<u8> {
        let mut space = self.config.sectors().to_le_bytes().to_vec();
        let mut word = |value: u32| space.extend(value.to_le_bytes());
        // size_max, which is not offered, and seg_max.
        word(0);
        word(SEGMENTS);
        // The geometry, which is not offered.
        word(0);
        // blk_size.
        word(SECTOR);
        // The topology: a page has 2^3 sectors and begins with the first; min_io_size in sectors; no
        // opt_io_size.
        word(PAGE.ilog2() | (PAGE << 16));
        word(0);
        // writeback, which is not offered, and num_queues.
        word(u32::from(self.config.queues()) << 16);
        word(DISCARD_SECTORS);
        word(DISCARD_RANGES);
        word(PAGE);
        word(ZERO_SECTORS);
        // max_write_zeroes_seg and write_zeroes_may_unmap.
        word(1);
        word(1);
        space
    }

    fn negotiated(&mut self, features: u64) {
        self.features = features;
    }

    fn reset(&mut self) {}

    fn process(&mut self, event: Event, queues: &mut [Queue<'_>]) -> bool {
        let mut unfinished = false;
        match event {
            Event::Queue(index) => {
                if let Some(queue) = queues.get_mut(index) {
                    unfinished = self.serve(queue);
                }
            }
            Event::Again | Event::Source(..) => {
                for queue in queues {
                    unfinished |= self.serve(queue);
                }
            }
        }
        unfinished
    }
}
