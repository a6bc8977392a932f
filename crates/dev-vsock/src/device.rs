//! The device: packets in, packets out, and who gets them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use device::serve::{Buffers, Chain, Device, Event, Memory, Queue, Readiness, Sources};
use wire::vsock::{ACCEPTED, Stream};

use crate::backend::{Connection, Key, prepare};
use crate::config::Config;
use crate::inbox::Inbox;
use crate::journal::{Journal, MAX_RESETS};
use crate::request::{Header, MAX_PAYLOAD, Op, Verdict, judge};
use crate::table::Table;

/// Receive, transmit, event (virtio 1.2, section 5.10.2). The event queue is for migration, which
/// there is none of.
const QUEUE_SIZES: [u16; 3] = [1024, 1024, 128];

/// Packets taken from the guest before other events have their turn.
const TRANSMIT_BUDGET: usize = 256;

/// Turns of connections to speak before other events have theirs.
const RECEIVE_BUDGET: usize = 64;

/// Receive buffers to fill with one read.
const MAX_APPETITE: usize = 32;

/// [`Sources`] tokens: connection requests, then the connections' slots.
const INBOX: u16 = 0;
const FIRST_SLOT: u16 = 1;

/// A virtio socket device.
pub struct Vsock {
    config: Config,
    sources: Option<Sources>,
    table: Table,
    journal: Journal,
    /// The streams of the process before this one, until the queues are live.
    kept: Option<Vec<(Stream, UnixStream)>>,
    /// The connection that the packet being taken is of.
    touched: Option<u16>,
    inbox: Arc<Inbox>,
    accepted: SyncSender<Accepted>,
}

/// What a device has from the one before it. Without one, the journal is empty and there are no
/// streams.
#[derive(Debug)]
pub struct Legacy {
    /// A file of [`wire::vsock::JOURNAL_SIZE`].
    pub journal: OwnedFd,
    /// The streams, with the smallest number first.
    pub streams: Vec<(Stream, UnixStream)>,
}

/// A connection of the guest's.
#[derive(Debug)]
pub struct Accepted {
    /// Its number, and the host's port.
    pub stream: Stream,
    /// What leads to the guest.
    pub theirs: UnixStream,
    /// A copy of the device's end.
    pub ours: UnixStream,
}

/// How a pass over a queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// There is nothing to do until something happens.
    Finished,
    /// The budget is used up.
    Unfinished,
}

impl Vsock {
    /// A device whose connection requests come from `inbox`, and which hands the guest's
    /// connections to `accepted`; one that cannot be handed over at once is refused.
    ///
    /// # Errors
    /// If the journal is of no use, or an eventfd cannot be made.
    pub fn new(
        config: Config,
        inbox: Arc<Inbox>,
        accepted: SyncSender<Accepted>,
        legacy: Legacy,
    ) -> io::Result<Self> {
        Ok(Self {
            config,
            sources: None,
            table: Table::default(),
            journal: Journal::open(legacy.journal)?,
            kept: Some(legacy.streams),
            touched: None,
            inbox,
            accepted,
        })
    }

    /// Takes over where the process before this one was killed; `false` if there was one, and the driver
    /// has not started both queues yet, which tell how far it came.
    fn resume(&mut self, receive: &mut Queue<'_>, transmit: &Queue<'_>) -> bool {
        let known = self.journal.is_fresh() || (receive.is_live() && transmit.is_live());
        if self.kept.is_some() && !known {
            return false;
        }
        let Some(kept) = self.kept.take() else {
            return true;
        };
        let left = (self.journal).settle(receive.used_index(), transmit.used_index());
        self.restore(kept);
        if !left.same_driver {
            self.detach_all();
        } else if let Some((slot, count)) = left.received {
            self.forward_received(slot, count, receive);
        }
        self.connect_wanted();
        true
    }

    /// Makes the connections that the journal tells of.
    fn restore(&mut self, kept: Vec<(Stream, UnixStream)>) {
        let kept = kept
            .into_iter()
            .map(|(stream, end)| (stream.id, (stream, end)));
        let mut kept: HashMap<u32, (Stream, UnixStream)> = kept.collect();
        let records: Vec<_> = self.journal.records().collect();
        for (slot, record) in records {
            let kept = kept.remove(&Connection::id_of(&record));
            // One that is not kept has ended at its other end.
            let stream = kept.map(|(_, stream)| stream).or_else(ended_stream);
            let restored = stream
                .and_then(|stream| prepare(stream).ok())
                .and_then(|stream| Connection::restore(slot, &record, stream))
                .is_some_and(|connection| self.table.insert_at(slot, connection))
                && self.watch(slot);
            if !restored {
                // No device of ours has written this.
                let Key {
                    host_port,
                    guest_port,
                } = Connection::key_of(&record);
                self.add_reset(Header::reset_of(
                    self.config.guest_cid(),
                    host_port,
                    guest_port,
                ));
                self.journal.decide(Some((slot, Default::default())));
            }
        }
        self.table.note_ports(self.journal.counters.connects);
        let mut rest: Vec<_> = kept.into_values().collect();
        rest.sort_by_key(|(stream, _)| stream.id);
        for (stream, end) in rest {
            if stream.id & ACCEPTED == 0 && stream.id > self.journal.counters.connects {
                self.connect(stream, end);
            } else {
                // It is over, or the guest will ask for it again.
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }

    /// A reset is to be given, unless there are too many: then the guest gets one when it sends.
    fn add_reset(&mut self, reset: Header) {
        if self.journal.resets() < MAX_RESETS {
            self.journal.push_reset(&reset);
        }
    }

    /// Writes down what a connection is now, which waits for nothing.
    fn keep(&mut self, slot: u16) {
        let change = self.table.change(slot);
        self.journal.decide(Some(change));
    }

    /// Watches a connection's stream; it is closed if that cannot be.
    fn watch(&mut self, slot: u16) -> bool {
        let watched = match (&self.sources, self.table.get_mut(slot)) {
            (Some(sources), Some(connection)) => sources
                .add(connection.stream().as_fd(), slot.saturating_add(FIRST_SLOT))
                .is_ok(),
            _ => false,
        };
        if watched {
            self.table.enlist(slot);
        } else {
            self.table.remove(slot);
        }
        watched
    }

    /// Adds a connection; it is closed if it cannot be.
    fn insert(&mut self, connection: Connection) -> Option<u16> {
        let slot = self.table.insert(connection)?;
        self.watch(slot).then_some(slot)
    }

    fn remove(&mut self, slot: u16) {
        if let Some(connection) = self.table.remove(slot) {
            if let Some(sources) = &self.sources {
                let token = slot.saturating_add(FIRST_SLOT);
                sources.remove(connection.stream().as_fd(), token);
            }
            connection.close();
        }
    }

    /// The guest knows the connection no more: deliver what is left, then close it.
    fn detach(&mut self, slot: u16) {
        self.table.forget_key(slot);
        let drained = self.table.get_mut(slot).is_none_or(|connection| {
            connection.detach();
            connection.is_drained()
        });
        if drained {
            self.remove(slot);
        }
    }

    /// The guest knows none of them.
    fn detach_all(&mut self) {
        self.journal.clear_resets();
        for slot in self.table.slots() {
            let known = self
                .table
                .get_mut(slot)
                .is_some_and(|connection| !connection.is_unknown_to_guest());
            if known {
                self.detach(slot);
                self.keep(slot);
            }
        }
    }

    fn connect_wanted(&mut self) {
        for (wanted, stream) in self.inbox.take() {
            self.connect(wanted, stream);
        }
    }

    fn connect(&mut self, wanted: Stream, stream: UnixStream) {
        self.journal.counters.connects = wanted.id;
        let key = Key {
            host_port: self.table.allocate_port(wanted.port),
            guest_port: wanted.port,
        };
        let slot = prepare(stream)
            .ok()
            .and_then(|stream| self.insert(Connection::wanted(key, stream, wanted.id)));
        if slot.is_none() {
            device::report("a connection to the guest is refused: there are too many");
        }
        let change = slot.map(|slot| self.table.change(slot));
        self.journal.decide(change);
    }

    fn note_readiness(&mut self, slot: u16, readiness: Readiness) {
        let Some(connection) = self.table.get_mut(slot) else {
            return;
        };
        // The event may be older than the connection, and of the stream that had this slot before.
        let gone = readiness.gone && connection.is_gone();
        let readiness = Readiness { gone, ..readiness };
        connection.note_readiness(readiness, &self.journal);
        let over = connection.is_draining() && (connection.is_drained() || readiness.gone);
        if over {
            self.remove(slot);
        } else {
            self.table.enlist(slot);
        }
        if over || readiness.gone {
            self.keep(slot);
        }
    }

    /// Takes packets from the guest.
    fn transmit(&mut self, queue: &mut Queue<'_>) -> Pass {
        let memory = queue.memory();
        for _ in 0..TRANSMIT_BUDGET {
            // A guest that makes us answer without giving us buffers waits for itself.
            if self.journal.resets() >= MAX_RESETS {
                return Pass::Finished;
            }
            let Some(chain) = queue.pop() else {
                return Pass::Finished;
            };
            self.journal.taking(queue.used_index());
            self.touched = None;
            self.take_packet(&chain, &memory);
            let change = self.touched.map(|slot| self.table.change(slot));
            self.journal.taken(change);
            queue.push(&chain, 0);
            self.journal.apply(change);
            self.flush_rest();
        }
        Pass::Unfinished
    }

    /// A packet of very many pieces is not sent with one call.
    fn flush_rest(&mut self) {
        if let Some(slot) = self.touched
            && let Some(connection) = self.table.get_mut(slot)
            && connection.may_flush()
        {
            connection.flush(&self.journal);
        }
    }

    /// One chain from the guest. What is not even a header is dropped: there is no one to answer.
    fn take_packet(&mut self, chain: &Chain, memory: &Memory) {
        let Some(mut packet) = chain.readable(memory) else {
            return;
        };
        let mut bytes = [0; Header::SIZE];
        if packet.peek(&mut bytes) < bytes.len() {
            return;
        }
        packet.advance(bytes.len());
        let header = Header::parse(&bytes);
        let key = Key {
            host_port: header.dst_port,
            guest_port: header.src_port,
        };
        match judge(&header, packet.len(), self.config.guest_cid()) {
            Verdict::Ignore => {}
            Verdict::Refuse => self.refuse(&header, self.table.find(key)),
            Verdict::Deliver(op) => match self.table.find(key) {
                Some(slot) => self.deliver(slot, op, &header, packet),
                None if op == Op::Request => self.accept(key, &header),
                None if op == Op::Reset => {}
                None => self.refuse(&header, None),
            },
        }
    }

    /// Answers with a reset and ends the connection.
    fn refuse(&mut self, header: &Header, slot: Option<u16>) {
        self.add_reset(header.reset());
        if let Some(slot) = slot {
            self.touched = Some(slot);
            self.remove(slot);
        }
    }

    fn accept(&mut self, key: Key, header: &Header) {
        let accepted = self.config.accepts(key.host_port) && self.hand_over(key, header).is_some();
        if !accepted {
            self.refuse(header, self.table.find(key));
        }
    }

    /// Makes a stream for a connection of the guest's, one end of which goes to the supervisor.
    fn hand_over(&mut self, key: Key, header: &Header) -> Option<()> {
        let counters = &mut self.journal.counters;
        counters.accepts = counters.accepts.wrapping_add(1);
        let stream = Stream {
            id: ACCEPTED | counters.accepts,
            port: key.host_port,
        };
        let (ours, theirs) = UnixStream::pair().ok()?;
        let ours = prepare(ours).ok()?;
        let accepted = Accepted {
            stream,
            theirs,
            ours: ours.try_clone().ok()?,
        };
        let connection = Connection::accepted(key, ours, stream.id, header);
        self.touched = self.insert(connection);
        self.touched?;
        self.accepted.try_send(accepted).ok()
    }

    fn deliver(&mut self, slot: u16, op: Op, header: &Header, mut packet: Buffers<'_>) {
        self.touched = Some(slot);
        let Some(connection) = self.table.get_mut(slot) else {
            return;
        };
        connection.note_credit(header);
        let length = usize::try_from(header.len).unwrap_or(usize::MAX);
        let mut ended = false;
        let fine = match op {
            Op::Request => false,
            Op::Response => connection.open().is_ok(),
            Op::Reset => return self.detach(slot),
            Op::Shutdown => {
                ended = connection.note_shutdown(header.flags);
                true
            }
            Op::Data => {
                packet.truncate(length);
                let begun = self.journal.begun(slot);
                connection.deliver(packet, begun, &self.journal).is_ok()
            }
            Op::CreditUpdate => true,
            Op::CreditRequest => {
                connection.ask_credit();
                true
            }
        };
        if !fine {
            self.refuse(header, Some(slot));
        } else if ended {
            // The guest waits for this reset before it forgets the connection.
            self.add_reset(header.reset());
            self.detach(slot);
        } else {
            self.table.enlist(slot);
        }
    }

    /// Sends packets to the guest: resets first, then each connection in its turn.
    fn receive(&mut self, queue: &mut Queue<'_>) -> Pass {
        let memory = queue.memory();
        for _ in 0..RECEIVE_BUDGET {
            let sent = if let Some(reset) = self.journal.first_reset() {
                self.give_reset(&reset, queue, &memory)
            } else if let Some(slot) = self.table.speaker() {
                let sent = self.speak(slot, queue, &memory);
                if sent {
                    self.table.spoke(slot);
                }
                sent
            } else {
                return Pass::Finished;
            };
            if !sent {
                return Pass::Finished;
            }
        }
        Pass::Unfinished
    }

    fn give_reset(&mut self, reset: &Header, queue: &mut Queue<'_>, memory: &Memory) -> bool {
        let Some((chain, mut buffers)) = take_buffer(queue, memory, false) else {
            return false;
        };
        buffers.fill(&reset.encode());
        self.journal.pop_reset();
        self.give(queue, &[(chain, Header::SIZE)], None);
        true
    }

    /// Lets one connection send; false if the guest has no buffer for it.
    fn speak(&mut self, slot: u16, queue: &mut Queue<'_>, memory: &Memory) -> bool {
        let Some(connection) = self.table.get_mut(slot) else {
            return true;
        };
        let Some(control) = connection.control() else {
            return self.forward(slot, queue, memory);
        };
        let Some((chain, mut buffers)) = take_buffer(queue, memory, false) else {
            return false;
        };
        buffers.fill(&connection.say(control, self.config.guest_cid()).encode());
        self.give(queue, &[(chain, Header::SIZE)], Some(slot));
        true
    }

    /// Receives from the stream once, into the guest's buffers; false if the guest has none.
    fn forward(&mut self, slot: u16, queue: &mut Queue<'_>, memory: &Memory) -> bool {
        let Some(connection) = self.table.get_mut(slot) else {
            return true;
        };
        let limit = connection.credit().min(MAX_PAYLOAD);
        let row = Row::take(queue, memory, limit, connection.appetite);
        if row.chains.is_empty() {
            return false;
        }
        let limit = limit.min(row.room.len());
        let mut room = row.room.clone();
        room.truncate(limit);
        let count = connection.receive(&room, &self.journal);
        connection.appetite = if count == limit && limit > 0 {
            connection.appetite.saturating_mul(2).min(MAX_APPETITE)
        } else {
            1
        };
        self.give_row(slot, row, count, queue);
        true
    }

    /// A process before this one received so many bytes into the buffers that are the guest's next.
    fn forward_received(&mut self, slot: u16, count: usize, queue: &mut Queue<'_>) {
        if self.table.get_mut(slot).is_none() {
            return;
        }
        let memory = queue.memory();
        let row = Row::take(queue, &memory, count, MAX_APPETITE);
        self.give_row(slot, row, count, queue);
    }

    /// Gives the guest the first `count` bytes of a row, and puts back what they are not in.
    fn give_row(&mut self, slot: u16, row: Row<'_>, count: usize, queue: &mut Queue<'_>) {
        let guest_cid = self.config.guest_cid();
        let (mut left, mut given) = (count, Vec::new());
        for (chain, mut head, room) in row.chains {
            let length = room.min(left);
            let Some(connection) = self.table.get_mut(slot).filter(|_| length > 0) else {
                queue.unpop();
                continue;
            };
            left = left.saturating_sub(length);
            let said = u32::try_from(length).unwrap_or(0);
            head.fill(&connection.say_data(said, guest_cid).encode());
            given.push((chain, length.saturating_add(Header::SIZE)));
        }
        if !given.is_empty() {
            self.give(queue, &given, Some(slot));
        }
    }

    /// Gives chains to the guest, each with so many bytes, as one step that changes a connection.
    fn give(&mut self, queue: &mut Queue<'_>, chains: &[(Chain, usize)], slot: Option<u16>) {
        let change = slot.map(|slot| self.table.change(slot));
        self.journal.given(queue.used_index(), chains.len(), change);
        let written = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let given = chains.iter().map(|(chain, count)| (chain, written(*count)));
        queue.push_all(given);
        self.journal.apply(change);
    }
}

/// A stream whose other end is closed.
fn ended_stream() -> Option<UnixStream> {
    UnixStream::pair().ok().map(|(ours, _)| ours)
}

/// Buffers of the guest's that one call may fill.
struct Row<'m> {
    /// Each with where its header belongs, and how many bytes there are behind that.
    chains: VecDeque<(Chain, Buffers<'m>, usize)>,
    /// What is behind the headers.
    room: Buffers<'m>,
}

impl<'m> Row<'m> {
    /// Takes buffers until there is room for `limit` bytes, or there are `most`.
    fn take(queue: &mut Queue<'_>, memory: &'m Memory, limit: usize, most: usize) -> Self {
        let mut row = Self {
            chains: VecDeque::new(),
            room: Buffers::default(),
        };
        while row.room.len() < limit && row.chains.len() < most {
            let Some((chain, mut head)) = take_buffer(queue, memory, !row.chains.is_empty()) else {
                break;
            };
            let body = head.split_off(Header::SIZE);
            row.room.extend(&body);
            row.chains.push_back((chain, head, body.len()));
        }
        row
    }
}

/// The guest's next receive buffer that has room for a header and a byte. Others go back empty,
/// unless earlier ones are `held`: chains are returned in order, so then they end the row.
fn take_buffer<'m>(
    queue: &mut Queue<'_>,
    memory: &'m Memory,
    held: bool,
) -> Option<(Chain, Buffers<'m>)> {
    for _ in 0..QUEUE_SIZES[0] {
        let chain = queue.pop()?;
        let buffers = chain
            .writable(memory)
            .filter(|buffers| buffers.len() > Header::SIZE);
        match buffers {
            Some(buffers) => return Some((chain, buffers)),
            None if held => {
                queue.unpop();
                return None;
            }
            None => queue.push(&chain, 0),
        }
    }
    None
}

impl Device for Vsock {
    fn queue_sizes(&self) -> Vec<u16> {
        QUEUE_SIZES.to_vec()
    }

    fn config(&self) -> Vec<u8> {
        // struct virtio_vsock_config { le64 guest_cid; }
        self.config.guest_cid().to_le_bytes().to_vec()
    }

    fn attach(&mut self, sources: Sources) -> io::Result<()> {
        sources.add(self.inbox.wake().as_fd(), INBOX)?;
        self.sources = Some(sources);
        Ok(())
    }

    fn reset(&mut self) {
        // Whether that is so with a driver whose connections are not restored yet, the journal knows.
        if self.kept.is_none() {
            self.detach_all();
        }
    }

    fn process(&mut self, event: Event, queues: &mut [Queue<'_>]) -> bool {
        let [receive, transmit, ..] = queues else {
            return false;
        };
        if !self.resume(receive, transmit) {
            return false;
        }
        match event {
            Event::Queue(_) | Event::Again => {}
            Event::Source(INBOX, _) => self.connect_wanted(),
            Event::Source(token, readiness) => {
                self.note_readiness(token.saturating_sub(FIRST_SLOT), readiness);
            }
        }
        let taken = self.transmit(transmit);
        let stalled = self.journal.resets() >= MAX_RESETS;
        let sent = self.receive(receive);
        let relieved = stalled && self.journal.resets() < MAX_RESETS;
        taken == Pass::Unfinished || sent == Pass::Unfinished || relieved
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn an_event_of_the_stream_that_had_a_slot_before_does_not_end_a_connection() {
        let config = Config::try_from(wire::vsock::Config {
            guest_cid: 3,
            accept_ports: Vec::new(),
        });
        let inbox = Arc::new(Inbox::new().unwrap());
        let journal = tempfile::tempfile().unwrap();
        journal.set_len(wire::vsock::JOURNAL_SIZE).unwrap();
        let legacy = Legacy {
            journal: journal.into(),
            streams: Vec::new(),
        };
        let mut device = Vsock::new(config.unwrap(), inbox, sync_channel(1).0, legacy).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let key = Key {
            host_port: 1,
            guest_port: 2,
        };
        let header = Header {
            buf_alloc: 64,
            ..Header::default()
        };
        let connection = Connection::accepted(key, prepare(ours).unwrap(), ACCEPTED, &header);
        let slot = device.table.insert(connection).unwrap();
        let old = Readiness {
            readable: true,
            writable: true,
            ending: true,
            gone: true,
        };
        device.note_readiness(slot, old);
        let connection = device.table.get_mut(slot).unwrap();
        device.journal.backlog(9, 0, 1).fill(b"x");
        let data = device.journal.backlog(9, 0, 1);
        connection.deliver(data, 0, &device.journal).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut byte = [0];
        theirs.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");

        drop(theirs);
        device.note_readiness(slot, old);
        let connection = device.table.get_mut(slot).unwrap();
        assert!(connection.is_gone());
        device.journal.backlog(9, 0, 1).fill(b"y");
        let data = device.journal.backlog(9, 0, 1);
        connection.deliver(data, 0, &device.journal).unwrap();
        assert!(connection.is_due());
    }
}
