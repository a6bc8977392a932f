//! Packets on their way to the guest.

use device::serve::{Buffers, Chain, Memory, Queue};
use smallvec::SmallVec;

use crate::checksum::Sum;
use crate::header::{Header, Segments, feature};
use crate::packet::Head;
use crate::pcap::Pcap;
use crate::rate::Bucket;

/// The guest has given no buffers that the packet fits in. It will kick when it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoBuffers;

/// A packet for the guest.
#[derive(Debug)]
pub(crate) struct Outgoing<'p> {
    /// All headers, from Ethernet's on.
    pub(crate) head: Head,
    /// What follows them.
    pub(crate) payload: [&'p [u8]; 2],
    /// The checksum that is left to do, if any.
    pub(crate) checksum: Option<Checksum>,
    /// To be cut by the guest, which must have agreed to that.
    pub(crate) segments: Option<(Segments, u16)>,
}

/// A transport header's checksum. Its field holds the sum over the pseudo header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checksum {
    /// Where the transport header begins in the frame.
    pub(crate) start: u16,
    /// Where in it the field is.
    pub(crate) offset: u16,
}

impl Outgoing<'_> {
    fn length(&self) -> usize {
        let payload = self.payload.iter().map(|part| part.len());
        payload.fold(self.head.len(), usize::saturating_add)
    }

    fn header(&self) -> Header {
        Header {
            checksum: self.checksum.map(|sum| (sum.start, sum.offset)),
            segments: self.segments,
            header_length: u16::try_from(self.head.len()).unwrap_or(0),
            buffers: 1,
        }
    }

    /// Completes the checksum, for a guest that does not want to.
    fn complete_checksum(&mut self) {
        let Some(Checksum { start, offset }) = self.checksum.take() else {
            return;
        };
        let (start, offset) = (usize::from(start), usize::from(offset));
        let mut sum = Sum::default();
        sum.add(self.head.get(start..).unwrap_or_default());
        for part in self.payload {
            sum.add(part);
        }
        let value = sum.finish_transport();
        let field = start
            .checked_add(offset)
            .and_then(|at| self.head.get_mut(at..)?.first_chunk_mut());
        if let Some(field) = field {
            *field = value.to_be_bytes();
        }
    }
}

/// The receive queues, for the length of one call to the device.
pub(crate) struct Receive<'d, 'q> {
    /// The first pair's; there is always one.
    first: &'d mut Queue<'q>,
    /// Those of the other pairs.
    others: SmallVec<[&'d mut Queue<'q>; 7]>,
    /// Which of all is used.
    pair: usize,
    pub(crate) memory: &'d Memory,
    /// What the driver agreed to.
    pub(crate) features: u64,
    pub(crate) bucket: &'d mut Bucket,
    pub(crate) pcap: Option<&'d mut Pcap>,
}

/// Chains that a packet goes into, and what of them is still empty.
type Taken<'m> = SmallVec<[(Chain, Buffers<'m>); 20]>;

impl<'d, 'q> Receive<'d, 'q> {
    /// `queues` are the device's, which begin with `pairs` pairs; `None` if there are none.
    pub(crate) fn new(
        queues: &'d mut [Queue<'q>],
        pairs: u16,
        memory: &'d Memory,
        features: u64,
        bucket: &'d mut Bucket,
        pcap: Option<&'d mut Pcap>,
    ) -> Option<Self> {
        let mut receive = queues.iter_mut().step_by(2).take(pairs.into());
        Some(Self {
            first: receive.next()?,
            others: receive.collect(),
            pair: 0,
            memory,
            features,
            bucket,
            pcap,
        })
    }

    /// The next packets go to the receive queue of this pair, or of the first if the guest has not
    /// started it.
    pub(crate) fn select(&mut self, pair: u16) {
        let other = usize::from(pair).checked_sub(1);
        let queue = other.and_then(|other| self.others.get(other));
        let live = queue.is_some_and(|queue| queue.is_live());
        self.pair = if live { pair.into() } else { 0 };
    }

    /// The queue that the next packets go to.
    pub(crate) fn queue(&mut self) -> &mut Queue<'q> {
        let other = self.pair.checked_sub(1);
        match other.and_then(|other| self.others.get_mut(other)) {
            Some(queue) => queue,
            None => self.first,
        }
    }

    /// Whether the guest agreed to all of these.
    pub(crate) fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// Puts a packet into the guest's buffers. One that the guest can never take is dropped.
    pub(crate) fn send(&mut self, mut packet: Outgoing<'_>) -> Result<(), NoBuffers> {
        if !self.bucket.is_open() {
            return Err(NoBuffers);
        }
        if !self.has(feature::GUEST_CSUM) {
            packet.complete_checksum();
        }
        let length = packet.length();
        let mut taken = self.take(Header::SIZE.saturating_add(length))?;
        let mut header = packet.header();
        header.buffers = u16::try_from(taken.len()).unwrap_or(u16::MAX);
        let mut writer = Writer::new(&mut taken);
        writer.write(&header.encode());
        writer.write(&packet.head);
        for part in packet.payload {
            writer.write(part);
        }
        let written = writer.finish();
        let chains = taken.iter().map(|(chain, _)| chain);
        self.queue().push_all(chains.zip(written));
        self.bucket.take(length);
        if let Some(pcap) = &mut self.pcap {
            let [first, second] = packet.payload;
            pcap.record(&[&packet.head, first, second]);
        }
        Ok(())
    }

    /// Takes chains with room for `length` bytes, or leaves the queue as it was.
    fn take(&mut self, length: usize) -> Result<Taken<'d>, NoBuffers> {
        let memory = self.memory;
        let mergeable = self.has(feature::MRG_RXBUF);
        let mut taken = Taken::new();
        let mut room = 0_usize;
        while room < length && (mergeable || taken.is_empty()) {
            let Some(chain) = self.queue().pop() else {
                break;
            };
            match chain.writable(memory) {
                Some(buffers) if !buffers.is_empty() => {
                    room = room.saturating_add(buffers.len());
                    taken.push((chain, buffers));
                }
                // Outside of memory, or of no use; if it comes in the middle of others, its turn
                // to go back is when theirs is.
                _ if taken.is_empty() => self.queue().push(&chain, 0),
                _ => {
                    self.queue().unpop();
                    break;
                }
            }
        }
        if room >= length {
            return Ok(taken);
        }
        for _ in &taken {
            self.queue().unpop();
        }
        Err(NoBuffers)
    }
}

/// Fills chains one after the other, and counts.
struct Writer<'t, 'm> {
    taken: &'t mut Taken<'m>,
    at: usize,
    written: SmallVec<[u32; 20]>,
}

impl<'t, 'm> Writer<'t, 'm> {
    fn new(taken: &'t mut Taken<'m>) -> Self {
        Self {
            written: SmallVec::from_elem(0, taken.len()),
            taken,
            at: 0,
        }
    }

    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (Some((_, buffers)), Some(written)) =
                (self.taken.get_mut(self.at), self.written.get_mut(self.at))
            else {
                return;
            };
            let count = buffers.fill(bytes);
            *written = written.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
            bytes = bytes.get(count..).unwrap_or_default();
            if buffers.is_empty() {
                self.at = self.at.saturating_add(1);
            }
        }
    }

    fn finish(self) -> SmallVec<[u32; 20]> {
        self.written
    }
}
