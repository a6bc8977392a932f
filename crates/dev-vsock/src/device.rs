//! The device: packets in, packets out, and who gets them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use device::serve::{Chain, Device, Event, Memory, Queue, Readiness, Sources, Writer};

use crate::backend::{Connection, Key, prepare};
use crate::config::Config;
use crate::inbox::{Inbox, Wake};
use crate::request::{Header, MAX_PAYLOAD, Op, Verdict, judge};
use crate::table::Table;

/// Receive, transmit, event (virtio 1.2, section 5.10.2). The event queue is for migration, which
/// there is none of.
const QUEUE_SIZES: [u16; 3] = [1024, 1024, 128];

/// Buffer for what the guest sends, for each connection while they are few: 256 KiB, four of
/// Linux' largest packets.
const LARGE_BUFFER: u32 = 256 * 1024;

/// As [`LARGE_BUFFER`], while they are many. With [`FEW`] the device buffers at most
/// 256 * 256 KiB + 4096 * 16 KiB = 128 MiB, whatever the guest does.
const SMALL_BUFFER: u32 = 16 * 1024;

/// See [`SMALL_BUFFER`].
const FEW: usize = 256;

/// Resets that may wait for the guest's receive buffers before its packets are left unread.
const MAX_RESETS: usize = 256;

/// Packets taken from the guest before other events have their turn.
const TRANSMIT_BUDGET: usize = 256;

/// Turns of connections to speak before other events have theirs.
const RECEIVE_BUDGET: usize = 64;

/// Receive buffers to fill with one read.
const MAX_APPETITE: usize = 32;

/// [`Sources`] tokens: connection requests, unfinished work, then the connections' slots.
const INBOX: u16 = 0;
const MORE: u16 = 1;
const FIRST_SLOT: u16 = 2;

/// A virtio socket device.
pub struct Vsock {
    config: Config,
    sources: Option<Sources>,
    table: Table,
    resets: VecDeque<Header>,
    inbox: Arc<Inbox>,
    accepted: SyncSender<(u32, UnixStream)>,
    more: Wake,
    payload: Box<[u8]>,
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
    /// If an eventfd cannot be made.
    pub fn new(
        config: Config,
        inbox: Arc<Inbox>,
        accepted: SyncSender<(u32, UnixStream)>,
    ) -> io::Result<Self> {
        Ok(Self {
            config,
            sources: None,
            table: Table::default(),
            resets: VecDeque::new(),
            inbox,
            accepted,
            more: Wake::new()?,
            payload: vec![0; MAX_PAYLOAD].into_boxed_slice(),
        })
    }

    fn next_buffer(&self) -> u32 {
        if self.table.len() < FEW {
            LARGE_BUFFER
        } else {
            SMALL_BUFFER
        }
    }

    /// Adds a connection; it is closed if it cannot be.
    fn insert(&mut self, connection: Connection) -> bool {
        let Some(slot) = self.table.insert(connection) else {
            return false;
        };
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

    fn connect(&mut self, guest_port: u32, stream: UnixStream) {
        let host_port = self.table.allocate_port(guest_port);
        let key = Key {
            host_port,
            guest_port,
        };
        let Ok(stream) = prepare(stream) else { return };
        if !self.insert(Connection::wanted(key, stream, self.next_buffer())) {
            device::report("a connection to the guest is refused: there are too many");
        }
    }

    fn note_readiness(&mut self, slot: u16, readiness: Readiness) {
        let Some(connection) = self.table.get_mut(slot) else {
            return;
        };
        // The event may be older than the connection, and of the stream that had this slot before.
        let gone = readiness.gone && connection.is_gone();
        let readiness = Readiness { gone, ..readiness };
        connection.note_readiness(readiness);
        let over = connection.is_draining() && (connection.is_drained() || readiness.gone);
        if over {
            self.remove(slot);
        } else {
            self.table.enlist(slot);
        }
    }

    /// Takes packets from the guest.
    fn transmit(&mut self, queue: &mut Queue<'_>) -> Pass {
        let memory = queue.memory();
        for _ in 0..TRANSMIT_BUDGET {
            // A guest that makes us answer without giving us buffers waits for itself.
            if self.resets.len() >= MAX_RESETS {
                return Pass::Finished;
            }
            let Some(chain) = queue.pop() else {
                return Pass::Finished;
            };
            self.take_packet(&chain, &memory);
            queue.push(&chain, 0);
        }
        Pass::Unfinished
    }

    /// One chain from the guest. What is not even a header is dropped: there is no one to answer.
    fn take_packet(&mut self, chain: &Chain, memory: &Memory) {
        let mut bytes = [0; Header::SIZE];
        let Some(mut reader) = chain.reader(memory) else {
            return;
        };
        if reader.read_exact(&mut bytes).is_err() {
            return;
        }
        let header = Header::parse(&bytes);
        let key = Key {
            host_port: header.dst_port,
            guest_port: header.src_port,
        };
        match judge(&header, reader.available_bytes(), self.config.guest_cid()) {
            Verdict::Ignore => {}
            Verdict::Refuse => self.refuse(&header, self.table.find(key)),
            Verdict::Deliver(op) => match self.table.find(key) {
                Some(slot) => self.deliver(slot, op, &header, &mut reader),
                None if op == Op::Request => self.accept(key, &header),
                None if op == Op::Reset => {}
                None => self.refuse(&header, None),
            },
        }
    }

    /// Answers with a reset and ends the connection.
    fn refuse(&mut self, header: &Header, slot: Option<u16>) {
        self.resets.push_back(header.reset());
        if let Some(slot) = slot {
            self.remove(slot);
        }
    }

    fn accept(&mut self, key: Key, header: &Header) {
        let port = key.host_port;
        let accepted = self.config.accepts(port) && {
            UnixStream::pair().is_ok_and(|(ours, theirs)| {
                let buffer = self.next_buffer();
                prepare(ours)
                    .is_ok_and(|ours| self.insert(Connection::accepted(key, ours, buffer, header)))
                    && self.accepted.try_send((port, theirs)).is_ok()
            })
        };
        if !accepted {
            self.refuse(header, self.table.find(key));
        }
    }

    fn deliver(&mut self, slot: u16, op: Op, header: &Header, reader: &mut impl Read) {
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
            Op::Data => self.payload.get_mut(..length).is_some_and(|data| {
                reader.read_exact(data).is_ok() && connection.deliver(data).is_ok()
            }),
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
            self.resets.push_back(header.reset());
            self.detach(slot);
        } else {
            self.table.enlist(slot);
        }
    }

    /// Sends packets to the guest: resets first, then each connection in its turn.
    fn receive(&mut self, queue: &mut Queue<'_>) -> Pass {
        let memory = queue.memory();
        for _ in 0..RECEIVE_BUDGET {
            let sent = if let Some(reset) = self.resets.front() {
                let sent = send_header(queue, &memory, reset);
                if sent {
                    self.resets.pop_front();
                }
                sent
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

    /// Lets one connection send; false if the guest has no buffer for it.
    fn speak(&mut self, slot: u16, queue: &mut Queue<'_>, memory: &Memory) -> bool {
        let guest_cid = self.config.guest_cid();
        let Some(connection) = self.table.get_mut(slot) else {
            return true;
        };
        let Some(control) = connection.control() else {
            return forward(connection, queue, memory, &mut self.payload, guest_cid);
        };
        let Some((chain, mut writer)) = take_buffer(queue, memory, false) else {
            return false;
        };
        let header = connection.say(control, guest_cid).encode();
        finish(queue, &chain, writer.write_all(&header), &writer);
        true
    }
}

/// Reads from the stream once and spreads what there is over the guest's buffers; false if the
/// guest has none.
fn forward(
    connection: &mut Connection,
    queue: &mut Queue<'_>,
    memory: &Memory,
    payload: &mut [u8],
    guest_cid: u64,
) -> bool {
    let limit = connection.credit().min(payload.len());
    let mut buffers = VecDeque::new();
    let mut room = 0usize;
    while room < limit && buffers.len() < connection.appetite {
        let Some((chain, writer)) = take_buffer(queue, memory, !buffers.is_empty()) else {
            break;
        };
        room = room.saturating_add(writer.available_bytes().saturating_sub(Header::SIZE));
        buffers.push_back((chain, writer));
    }
    if buffers.is_empty() {
        return false;
    }
    let limit = limit.min(room);
    let count = payload
        .get_mut(..limit)
        .map_or(0, |space| connection.read(space));
    connection.appetite = if count == limit && limit > 0 {
        connection.appetite.saturating_mul(2).min(MAX_APPETITE)
    } else {
        1
    };
    let mut rest = payload.get(..count).unwrap_or_default();
    while !rest.is_empty()
        && let Some((chain, mut writer)) = buffers.pop_front()
    {
        let space = writer.available_bytes().saturating_sub(Header::SIZE);
        let (data, tail) = rest.split_at(space.min(rest.len()));
        rest = tail;
        let length = u32::try_from(data.len()).unwrap_or(0);
        let header = connection.say_data(length, guest_cid).encode();
        let result = writer
            .write_all(&header)
            .and_then(|()| writer.write_all(data));
        finish(queue, &chain, result, &writer);
    }
    for _ in buffers {
        queue.unpop();
    }
    true
}

/// The guest's next receive buffer that has room for a header and a byte. Others go back empty,
/// unless earlier ones are `held`: chains are returned in order, so then they end the row.
fn take_buffer<'m>(
    queue: &mut Queue<'_>,
    memory: &'m Memory,
    held: bool,
) -> Option<(Chain, Writer<'m>)> {
    for _ in 0..QUEUE_SIZES[0] {
        let chain = queue.pop()?;
        let writer = chain
            .writer(memory)
            .filter(|writer| writer.available_bytes() > Header::SIZE);
        match writer {
            Some(writer) => return Some((chain, writer)),
            None if held => {
                queue.unpop();
                return None;
            }
            None => queue.push(&chain, 0),
        }
    }
    None
}

fn send_header(queue: &mut Queue<'_>, memory: &Memory, header: &Header) -> bool {
    let Some((chain, mut writer)) = take_buffer(queue, memory, false) else {
        return false;
    };
    finish(queue, &chain, writer.write_all(&header.encode()), &writer);
    true
}

/// Gives a filled buffer back. A write fails only past the end, which was checked before.
fn finish(queue: &mut Queue<'_>, chain: &Chain, result: io::Result<()>, writer: &Writer<'_>) {
    let written = match result {
        Ok(()) => u32::try_from(writer.bytes_written()).unwrap_or(u32::MAX),
        Err(_) => 0,
    };
    queue.push(chain, written);
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
        sources.add(self.more.as_fd(), MORE)?;
        self.sources = Some(sources);
        Ok(())
    }

    fn reset(&mut self) {
        self.resets.clear();
        for slot in self.table.slots() {
            let known = self
                .table
                .get_mut(slot)
                .is_some_and(|connection| !connection.is_unknown_to_guest());
            if known {
                self.detach(slot);
            }
        }
    }

    fn process(&mut self, event: Event, queues: &mut [Queue<'_>]) {
        match event {
            Event::Queue(_) => {}
            Event::Source(INBOX, _) => {
                for (port, stream) in self.inbox.take() {
                    self.connect(port, stream);
                }
            }
            Event::Source(MORE, _) => self.more.clear(),
            Event::Source(token, readiness) => {
                self.note_readiness(token.saturating_sub(FIRST_SLOT), readiness);
            }
        }
        let [receive, transmit, ..] = queues else {
            return;
        };
        let taken = self.transmit(transmit);
        let stalled = self.resets.len() >= MAX_RESETS;
        let sent = self.receive(receive);
        let relieved = stalled && self.resets.len() < MAX_RESETS;
        // Go round again, but let other events have their turn.
        if taken == Pass::Unfinished || sent == Pass::Unfinished || relieved {
            self.more.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn an_event_of_the_stream_that_had_a_slot_before_does_not_end_a_connection() {
        let config = Config::try_from(wire::vsock::Config {
            guest_cid: 3,
            accept_ports: Vec::new(),
        });
        let inbox = Arc::new(Inbox::new().unwrap());
        let mut device = Vsock::new(config.unwrap(), inbox, sync_channel(1).0).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let key = Key {
            host_port: 1,
            guest_port: 2,
        };
        let header = Header {
            buf_alloc: 64,
            ..Header::default()
        };
        let connection = Connection::accepted(key, prepare(ours).unwrap(), 64, &header);
        let slot = device.table.insert(connection).unwrap();
        let old = Readiness {
            readable: true,
            writable: true,
            ending: true,
            gone: true,
        };
        device.note_readiness(slot, old);
        let connection = device.table.get_mut(slot).unwrap();
        connection.deliver(b"x").unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut byte = [0];
        theirs.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");

        drop(theirs);
        device.note_readiness(slot, old);
        let connection = device.table.get_mut(slot).unwrap();
        assert!(connection.is_gone());
        connection.deliver(b"y").unwrap();
        assert!(connection.is_due());
    }
}
