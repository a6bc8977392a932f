//! A TAP device of the host's: packets go to it and come from it as they are, headers included.

#![allow(
    unsafe_code,
    reason = "the one call that tells the kernel what the guest takes has no safe form"
)]

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use device::serve::{Buffers, Chain, Readiness, Sources};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use smallvec::SmallVec;

use crate::backend::{Backend, Pass};
use crate::header::{Header, feature};
use crate::packet::Mac;
use crate::receive::Receive;

/// Packets delivered before other events have their turn.
const PACKETS: usize = 64;

/// What the longest packet takes: header, Ethernet, and 65535 bytes.
const LONGEST: usize = Header::SIZE + 14 + 65535;

/// A packet that is more than a segment of Ethernet's.
const LARGE: usize = 4096;

/// TUN_F_CSUM.
const CHECKSUM: libc::c_ulong = 0x01;

/// TUN_F_* (linux/if_tun.h): what the kernel may leave to the guest.
const OFFLOADS: [(u64, libc::c_ulong); 5] = [
    (feature::GUEST_CSUM, CHECKSUM),
    (feature::GUEST_TSO4, 0x02),
    (feature::GUEST_TSO6, 0x04),
    (feature::GUEST_USO4, 0x20),
    (feature::GUEST_USO6, 0x40),
];

/// A TAP device.
pub(crate) struct Tap {
    fd: OwnedFd,
    /// It takes large UDP packets (Linux 6.2).
    uso: bool,
    /// There may be something to read.
    readable: bool,
    /// What the longest packet takes, with its header.
    longest: usize,
    /// The last packet was large, and so will be the next.
    large: bool,
    /// Room for what the next packet has beyond the guest's buffers.
    spill: Vec<u8>,
    /// A packet that there were no buffers for, with its header; mostly there is none.
    late: Vec<u8>,
    /// Empty between passes. It is kept because musl maps and unmaps a block of this size each time.
    chains: VecDeque<(Chain, usize)>,
}

impl Tap {
    /// # Errors
    /// If it is none.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        let mut tap = Self {
            fd,
            uso: false,
            readable: false,
            longest: LONGEST,
            large: false,
            spill: vec![0; LONGEST],
            late: Vec::new(),
            chains: VecDeque::new(),
        };
        // A kernel that does not know a bit refuses all of them.
        tap.uso = tap
            .set_offloads(OFFLOADS.iter().fold(0, |all, (_, flag)| all | flag))
            .is_ok();
        tap.set_offloads(0)?;
        Ok(tap)
    }

    fn set_offloads(&self, offloads: libc::c_ulong) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes a number, not a pointer; no memory is touched.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Delivers one packet; finished if there is none, or nothing that it may go into.
    fn deliver<'d>(&mut self, batch: &mut Batch<'d>, receive: &mut Receive<'d, '_>) -> Pass {
        if !receive.bucket.is_open() {
            return Pass::Finished;
        }
        if !self.late.is_empty() {
            return self.deliver_late(batch, receive);
        }
        // Buffers for the longest packet are many, and it takes time to put them back.
        let guess = if self.large { self.longest } else { 1 };
        if !self.readable {
            return Pass::Finished;
        }
        // With fewer than that it may still fit.
        batch.fill(receive, guess);
        if batch.room.is_empty() {
            return Pass::Finished;
        }
        match batch.room.read_from_with(self.fd.as_fd(), &mut self.spill) {
            Ok(length) => self.take_in(batch, receive, length),
            Err(error) if error.kind() == ErrorKind::Interrupted => Pass::Unfinished,
            // There is nothing, or it is down; there is an edge when that changes.
            Err(_) => {
                self.readable = false;
                Pass::Finished
            }
        }
    }

    /// A packet of `length` bytes has been read, into the batch and what is beyond that into the
    /// spill.
    fn take_in<'d>(
        &mut self,
        batch: &mut Batch<'d>,
        receive: &mut Receive<'d, '_>,
        length: usize,
    ) -> Pass {
        self.large = length > LARGE;
        let room = batch.room.len();
        let beyond = length.saturating_sub(room);
        let spilled = self.spill.get(..beyond).unwrap_or_default();
        if batch.fill(receive, length) {
            batch.write(room, spilled);
            batch.give(receive, length);
            return Pass::Unfinished;
        }
        // One that its buffers are too small for is lost, unless it may be in several.
        if receive.has(feature::MRG_RXBUF) {
            self.late.resize(room, 0);
            batch.room.peek(&mut self.late);
            self.late.extend_from_slice(spilled);
        }
        Pass::Finished
    }

    fn deliver_late<'d>(&mut self, batch: &mut Batch<'d>, receive: &mut Receive<'d, '_>) -> Pass {
        let length = self.late.len();
        if !batch.fill(receive, length) {
            return Pass::Finished;
        }
        batch.write(0, &self.late);
        batch.give(receive, length);
        self.late.clear();
        Pass::Unfinished
    }
}

/// Chains that the next packets go into.
struct Batch<'d> {
    /// Each with its bytes.
    chains: VecDeque<(Chain, usize)>,
    /// All of them in a row.
    room: Buffers<'d>,
}

impl<'d> Batch<'d> {
    /// Takes chains until `wanted` bytes fit; whether they do.
    fn fill(&mut self, receive: &mut Receive<'d, '_>, wanted: usize) -> bool {
        let memory = receive.memory;
        let mergeable = receive.has(feature::MRG_RXBUF);
        while self.room.len() < wanted && (mergeable || self.chains.is_empty()) {
            let Some(chain) = receive.queue().pop() else {
                break;
            };
            let buffers = chain.writable(memory).unwrap_or_default();
            self.room.extend(&buffers);
            self.chains.push_back((chain, buffers.len()));
        }
        self.room.len() >= wanted
    }

    /// Writes `bytes` at `offset`.
    fn write(&self, offset: usize, bytes: &[u8]) {
        let mut room = self.room.clone();
        room.advance(offset);
        room.fill(bytes);
    }

    /// The guest gets the chains that a packet of `length` bytes is in.
    fn give(&mut self, receive: &mut Receive<'d, '_>, length: usize) {
        let mut given = SmallVec::<[(Chain, u32); 20]>::new();
        let (mut left, mut used) = (length, 0_usize);
        while left > 0
            && let Some((chain, room)) = self.chains.pop_front()
        {
            let written = left.min(room);
            left = left.saturating_sub(written);
            used = used.saturating_add(room);
            given.push((chain, u32::try_from(written).unwrap_or(u32::MAX)));
        }
        let buffers = u16::try_from(given.len()).unwrap_or(u16::MAX);
        self.write(Header::BUFFERS, &buffers.to_le_bytes());
        if let Some(pcap) = &mut receive.pcap {
            let mut frame = vec![0; length];
            self.room.peek(&mut frame);
            pcap.record(&[frame.get(Header::SIZE..).unwrap_or_default()]);
        }
        self.room.advance(used);
        receive.bucket.take(length.saturating_sub(Header::SIZE));
        let given = given.iter().map(|(chain, written)| (chain, *written));
        receive.queue().push_all(given);
    }

    /// Puts back what was not used, and returns what it was in.
    fn end(mut self, receive: &mut Receive<'d, '_>) -> VecDeque<(Chain, usize)> {
        for _ in self.chains.drain(..) {
            receive.queue().unpop();
        }
        self.chains
    }
}

impl Backend for Tap {
    fn features(&self) -> u64 {
        let uso = feature::HOST_USO | feature::GUEST_USO4 | feature::GUEST_USO6;
        feature::CSUM
            | feature::GUEST_CSUM
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | if self.uso { uso } else { 0 }
    }

    fn negotiated(&mut self, features: u64) {
        let taken = OFFLOADS.iter().filter(|(bit, _)| features & bit != 0);
        let offloads = taken.fold(0, |offloads, (_, flag)| offloads | flag);
        self.longest = if offloads & !CHECKSUM == 0 {
            // The tap's MTU is its owner's to choose: that of the largest frames of Ethernet.
            Header::SIZE + 14 + 9216
        } else {
            LONGEST
        };
        if let Err(error) = self.set_offloads(offloads) {
            device::report(&format!(
                "the tap device does not take the guest's offloads: {error}"
            ));
        }
    }

    fn attach(&mut self, sources: Sources, first: u16) -> io::Result<()> {
        sources.add(self.fd.as_fd(), first)
    }

    fn reset(&mut self) {
        self.late.clear();
    }

    fn set_mac(&mut self, _mac: Mac) {}

    fn transmit(&mut self, packet: Buffers<'_>, _pair: u16, _now: Instant) {
        // A packet that the kernel does not take, now or ever, is lost, as on any network.
        let _ = packet.write_to(self.fd.as_fd());
    }

    fn ready(&mut self, _token: u16, readiness: Readiness, _now: Instant) {
        self.readable |= readiness.readable;
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn receive(&mut self, receive: &mut Receive<'_, '_>, _now: Instant) -> Pass {
        let mut batch = Batch {
            chains: std::mem::take(&mut self.chains),
            room: Buffers::default(),
        };
        let mut pass = Pass::Unfinished;
        for _ in 0..PACKETS {
            if self.deliver(&mut batch, receive) == Pass::Finished {
                pass = Pass::Finished;
                break;
            }
        }
        self.chains = batch.end(receive);
        pass
    }
}
