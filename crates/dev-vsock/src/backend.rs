//! One connection: the Unix stream on the host's side of it, and the credit of both sides.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use device::serve::{Buffers, Readiness};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::journal::{self, Journal, Record};
use crate::request::{HOST_CID, Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

/// Names a connection: the guest's context id and the host's are the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) host_port: u32,
    pub(crate) guest_port: u32,
}

/// What the guest did that it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation;

/// A control packet that a connection wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control {
    op: Op,
    flags: u32,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The host wants it; the request waits for a buffer of the guest.
    Wanted = 1,
    /// The request is with the guest.
    Requested,
    /// The guest wants it; our response waits for a buffer.
    Accepted,
    Open,
    /// The guest knows it no more; what it sent is still on its way to the stream.
    Draining,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: Key,
    /// The stream's number ([`wire::vsock::Stream`]).
    id: u32,
    slot: u16,
    stream: UnixStream,
    phase: Phase,
    /// How many of the guest's buffers to offer the next read: small for messages, large for
    /// streams.
    pub(crate) appetite: usize,

    // Host to guest.
    readable: bool,
    ending: bool,
    source_ended: bool,
    sent: Wrapping<u32>,
    guest_buffer: u32,
    guest_forwarded: Wrapping<u32>,

    // Guest to host.
    writable: bool,
    /// What waits for the stream is so many bytes of the journal's backlog, from `start` on.
    start: usize,
    waiting: usize,
    buffer: u32,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// `forwarded` as the guest knows it.
    advertised: Wrapping<u32>,
    sink_closed: bool,
    guest_shutdown: u32,

    credit_asked: bool,
    shutdown_told: u32,
}

impl Connection {
    /// The host wants `stream` connected to the guest.
    pub(crate) fn wanted(key: Key, stream: UnixStream, id: u32) -> Self {
        Self::new(key, stream, id, Phase::Wanted)
    }

    /// The guest connected to the host with `request`; `stream` leads to whoever serves the port.
    pub(crate) fn accepted(key: Key, stream: UnixStream, id: u32, request: &Header) -> Self {
        let mut connection = Self::new(key, stream, id, Phase::Accepted);
        connection.note_credit(request);
        connection
    }

    fn new(key: Key, stream: UnixStream, id: u32, phase: Phase) -> Self {
        Self {
            key,
            id,
            slot: 0,
            stream,
            phase,
            appetite: 1,
            readable: false,
            ending: false,
            source_ended: false,
            sent: Wrapping(0),
            guest_buffer: 0,
            guest_forwarded: Wrapping(0),
            writable: true,
            start: 0,
            waiting: 0,
            buffer: 0,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            advertised: Wrapping(0),
            sink_closed: false,
            guest_shutdown: 0,
            credit_asked: false,
            shutdown_told: 0,
        }
    }

    /// It has this slot from now on, and the buffer that belongs to it.
    pub(crate) fn settle_in(&mut self, slot: u16) {
        self.slot = slot;
        self.buffer = u32::try_from(journal::buffer(slot)).unwrap_or(0);
    }

    /// What a successor has to know.
    pub(crate) fn record(&self) -> Record {
        let flag = |flag: bool, bit: u32| u32::from(flag) << bit;
        let number = |count: usize| u32::try_from(count).unwrap_or(0);
        [
            self.phase as u32,
            self.id,
            self.key.host_port,
            self.key.guest_port,
            self.sent.0,
            self.guest_buffer,
            self.guest_forwarded.0,
            number(self.start),
            number(self.waiting),
            self.received.0,
            self.forwarded.0,
            self.advertised.0,
            self.guest_shutdown,
            self.shutdown_told,
            flag(self.source_ended, 0) | flag(self.sink_closed, 1) | flag(self.credit_asked, 2),
            0,
        ]
    }

    /// The number of the stream of the connection that left this record.
    pub(crate) const fn id_of(record: &Record) -> u32 {
        record[1]
    }

    /// The address of the connection that left this record.
    pub(crate) const fn key_of(record: &Record) -> Key {
        Key {
            host_port: record[2],
            guest_port: record[3],
        }
    }

    /// A connection as it was in this slot; `None` if no connection leaves such a record.
    pub(crate) fn restore(slot: u16, record: &Record, stream: UnixStream) -> Option<Self> {
        let phases = [
            Phase::Wanted,
            Phase::Requested,
            Phase::Accepted,
            Phase::Open,
            Phase::Draining,
        ];
        let phase = phases
            .into_iter()
            .find(|phase| *phase as u32 == record[0])?;
        let number = |word: u32| usize::try_from(word).ok();
        let flag = |bit: u32| record[14] & (1 << bit) != 0;
        let restored = Self {
            sent: Wrapping(record[4]),
            guest_buffer: record[5],
            guest_forwarded: Wrapping(record[6]),
            start: number(record[7])?,
            waiting: number(record[8])?,
            received: Wrapping(record[9]),
            forwarded: Wrapping(record[10]),
            advertised: Wrapping(record[11]),
            guest_shutdown: record[12],
            shutdown_told: record[13],
            source_ended: flag(0),
            sink_closed: flag(1),
            credit_asked: flag(2),
            ..Self::new(Self::key_of(record), stream, Self::id_of(record), phase)
        };
        let waiting = (restored.received - restored.forwarded).0;
        let fits =
            restored.waiting <= journal::buffer(slot) && number(waiting)? == restored.waiting;
        fits.then_some(restored)
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// No packet about it has reached the guest.
    pub(crate) fn is_unknown_to_guest(&self) -> bool {
        self.phase == Phase::Wanted
    }

    /// Only its backlog is left.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase == Phase::Draining
    }

    /// Something waits for the stream, which takes it.
    pub(crate) fn may_flush(&self) -> bool {
        self.writable && self.waiting > 0
    }

    /// Nothing of the guest's is left to be delivered.
    pub(crate) fn is_drained(&self) -> bool {
        self.waiting == 0
    }

    /// Whether the other end of the stream is closed.
    pub(crate) fn is_gone(&self) -> bool {
        let mut asked = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Takes in what epoll says of the stream, and writes what can be written.
    pub(crate) fn note_readiness(&mut self, readiness: Readiness, journal: &Journal) {
        self.readable |= readiness.readable;
        self.ending |= readiness.ending;
        if readiness.writable {
            self.writable = true;
            self.flush(journal);
        }
        if readiness.gone && self.phase != Phase::Draining {
            // Nobody reads what the guest sends.
            self.close_sink();
        }
    }

    /// Takes in the credit fields that every packet carries.
    pub(crate) fn note_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_forwarded = Wrapping(header.fwd_cnt);
    }

    /// Bytes that the guest has room for.
    pub(crate) fn credit(&self) -> usize {
        let in_flight = (self.sent - self.guest_forwarded).0;
        usize::try_from(self.guest_buffer.saturating_sub(in_flight)).unwrap_or(0)
    }

    /// The guest agreed to the connection.
    pub(crate) fn open(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::Requested {
            return Err(Violation);
        }
        self.phase = Phase::Open;
        Ok(())
    }

    /// The guest asks for our credit.
    pub(crate) fn ask_credit(&mut self) {
        self.credit_asked = true;
    }

    /// Payload from the guest, of which a process before this one wrote the first `begun` bytes. It
    /// violates the protocol if it is more than we have room for, or comes outside of an open
    /// connection, or after the guest said that it sends no more.
    pub(crate) fn deliver(
        &mut self,
        mut data: Buffers<'_>,
        begun: usize,
        journal: &Journal,
    ) -> Result<(), Violation> {
        let length = u32::try_from(data.len()).map_err(|_| Violation)?;
        let waiting = (self.received - self.forwarded).0;
        let open = matches!(self.phase, Phase::Open | Phase::Accepted);
        if !open
            || self.guest_shutdown & SHUTDOWN_SEND != 0
            || waiting.saturating_add(length) > self.buffer
        {
            return Err(Violation);
        }
        self.received += length;
        let begun = begun.min(data.len());
        self.count_forwarded(begun);
        data.advance(begun);
        if self.waiting == 0 {
            let sent = self.send(&data, journal);
            data.advance(sent);
        }
        if self.sink_closed {
            self.forwarded = self.received;
        } else {
            let end = self.start.saturating_add(self.waiting);
            let mut backlog = journal.backlog(self.slot, end, data.len());
            self.waiting = self.waiting.saturating_add(backlog.copy(data));
        }
        Ok(())
    }

    /// Sends as much of `data` as the stream takes with one call.
    fn send(&mut self, data: &Buffers<'_>, journal: &Journal) -> usize {
        while self.writable && !self.sink_closed && !data.is_empty() {
            let Some(note) = journal.sender(self.slot) else {
                break;
            };
            match data.send(self.stream.as_fd(), &note) {
                Ok(count) => {
                    self.count_forwarded(count);
                    return count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.close_sink(),
            }
        }
        0
    }

    fn count_forwarded(&mut self, count: usize) {
        self.forwarded += u32::try_from(count).unwrap_or(u32::MAX);
    }

    /// Nobody reads the stream: what the guest has sent is dropped, what it sends still counts.
    fn close_sink(&mut self) {
        self.sink_closed = true;
        self.waiting = 0;
        self.forwarded = self.received;
    }

    /// Writes what waits for the stream, as far as it takes it. Each call is a step of its own.
    pub(crate) fn flush(&mut self, journal: &Journal) {
        while self.may_flush() {
            journal.flushing();
            let sent = self.send(
                &journal.backlog(self.slot, self.start, self.waiting),
                journal,
            );
            self.leave_backlog(sent);
            journal.decide(Some((self.slot, self.record())));
        }
        self.pass_end_on();
    }

    fn leave_backlog(&mut self, count: usize) {
        self.waiting = self.waiting.saturating_sub(count);
        // A backlog that is empty begins where there is memory already.
        self.start = if self.waiting == 0 {
            0
        } else {
            let start = self.start.saturating_add(count);
            start.checked_rem(journal::buffer(self.slot)).unwrap_or(0)
        };
    }

    /// The record of a connection in this slot, `count` bytes of whose backlog have been written
    /// since.
    pub(crate) fn flushed(slot: u16, mut record: Record, count: usize) -> Record {
        let size = u32::try_from(journal::buffer(slot)).unwrap_or(0);
        let count = u32::try_from(count).unwrap_or(0).min(record[8]);
        record[7] = record[7]
            .saturating_add(count)
            .checked_rem(size)
            .unwrap_or(0);
        record[8] = record[8].saturating_sub(count);
        record[10] = record[10].wrapping_add(count);
        record
    }

    /// Ends the stream's direction once all before the guest's end has been written.
    fn pass_end_on(&mut self) {
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && self.waiting == 0 {
            // It fails if the other end is gone, which the loop learns by itself.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// The guest ends one or both directions; true if both have ended on its side.
    pub(crate) fn note_shutdown(&mut self, flags: u32) -> bool {
        self.guest_shutdown |= flags & (SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
        if flags & SHUTDOWN_RECEIVE != 0 {
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.pass_end_on();
        self.guest_shutdown == SHUTDOWN_SEND | SHUTDOWN_RECEIVE
    }

    /// The guest knows this connection no more.
    pub(crate) fn detach(&mut self) {
        self.phase = Phase::Draining;
        self.guest_shutdown = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;
        let _ = self.stream.shutdown(Shutdown::Read);
        self.pass_end_on();
    }

    /// Closes the stream so that its other end sees an end, not an error for what was unread.
    pub(crate) fn close(mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        let mut scrap = [0; 4096];
        // A Unix stream holds less than this many buffers' worth; never wait on a peer for more.
        for _ in 0..1024 {
            if !matches!(self.stream.read(&mut scrap), Ok(1..)) {
                break;
            }
        }
    }

    /// Whether a call to [`Connection::control`] or [`Connection::read`] would yield something.
    pub(crate) fn is_due(&self) -> bool {
        self.control().is_some() || self.may_read()
    }

    /// Whether there may be data for the guest, and the guest has room for it.
    pub(crate) fn may_read(&self) -> bool {
        self.phase == Phase::Open
            && self.readable
            && !self.source_ended
            && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
            && self.credit() > 0
    }

    /// The control packet to send next, if any.
    pub(crate) fn control(&self) -> Option<Control> {
        let plain = |op| Some(Control { op, flags: 0 });
        match self.phase {
            Phase::Wanted => return plain(Op::Request),
            Phase::Accepted => return plain(Op::Response),
            Phase::Requested | Phase::Draining => return None,
            Phase::Open => {}
        }
        // A quarter of the buffer: often enough that a busy guest never runs dry.
        let unsaid = (self.forwarded - self.advertised).0;
        if self.credit_asked || unsaid >= self.buffer / 4 {
            return plain(Op::CreditUpdate);
        }
        let flags = self.shutdown_due();
        (flags != self.shutdown_told).then_some(Control {
            op: Op::Shutdown,
            flags,
        })
    }

    fn shutdown_due(&self) -> u32 {
        let send = if self.source_ended { SHUTDOWN_SEND } else { 0 };
        let receive = if self.sink_closed {
            SHUTDOWN_RECEIVE
        } else {
            0
        };
        send | receive
    }

    /// The header of a control packet, which counts as sent from now on.
    pub(crate) fn say(&mut self, control: Control, guest_cid: u64) -> Header {
        match control.op {
            Op::Request => self.phase = Phase::Requested,
            Op::Response => self.phase = Phase::Open,
            Op::Shutdown => self.shutdown_told = control.flags,
            _ => {}
        }
        Header {
            flags: control.flags,
            ..self.header(control.op, 0, guest_cid)
        }
    }

    /// The header of `length` bytes of payload, which count as sent from now on.
    pub(crate) fn say_data(&mut self, length: u32, guest_cid: u64) -> Header {
        self.sent += length;
        self.header(Op::Data, length, guest_cid)
    }

    fn header(&mut self, op: Op, len: u32, guest_cid: u64) -> Header {
        self.advertised = self.forwarded;
        self.credit_asked = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            len,
            kind: TYPE_STREAM,
            op: op as u16,
            flags: 0,
            buf_alloc: self.buffer,
            fwd_cnt: self.forwarded.0,
        }
    }

    /// Receives payload for the guest into its `buffers`; 0 if there is none now, or never again.
    pub(crate) fn receive(&mut self, buffers: &Buffers<'_>, journal: &Journal) -> usize {
        loop {
            let Some(note) = journal.receiver(self.slot) else {
                return 0;
            };
            match buffers.receive(self.stream.as_fd(), &note) {
                Ok(0) => {
                    self.source_ended = true;
                    return 0;
                }
                Ok(count) => {
                    // The next byte raises a new edge, but an end that was reported does not.
                    self.readable = count == buffers.reach() || self.ending;
                    return count;
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => {
                        self.readable = false;
                        return 0;
                    }
                    _ => {
                        self.source_ended = true;
                        return 0;
                    }
                },
            }
        }
    }
}

/// Makes a stream that the loop can serve.
pub(crate) fn prepare(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    Ok(stream)
}
