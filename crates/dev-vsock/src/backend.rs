//! One connection: the Unix stream on the host's side of it, and the credit of both sides.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use device::serve::Readiness;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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
    Wanted,
    /// The request is with the guest.
    Requested,
    /// The guest wants it; our response waits for a buffer.
    Accepted,
    /// Open.
    Open,
    /// The guest knows it no more; what it sent is still on its way to the stream.
    Draining,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: Key,
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
    backlog: VecDeque<u8>,
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
    pub(crate) fn wanted(key: Key, stream: UnixStream, buffer: u32) -> Self {
        Self::new(key, stream, buffer, Phase::Wanted)
    }

    /// The guest connected to the host with `request`; `stream` leads to whoever serves the port.
    pub(crate) fn accepted(key: Key, stream: UnixStream, buffer: u32, request: &Header) -> Self {
        let mut connection = Self::new(key, stream, buffer, Phase::Accepted);
        connection.note_credit(request);
        connection
    }

    fn new(key: Key, stream: UnixStream, buffer: u32, phase: Phase) -> Self {
        Self {
            key,
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
            backlog: VecDeque::new(),
            buffer,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            advertised: Wrapping(0),
            sink_closed: false,
            guest_shutdown: 0,
            credit_asked: false,
            shutdown_told: 0,
        }
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

    /// Nothing of the guest's is left to be delivered.
    pub(crate) fn is_drained(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Whether the other end of the stream is closed.
    pub(crate) fn is_gone(&self) -> bool {
        let mut asked = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Takes in what epoll says of the stream, and writes what can be written.
    pub(crate) fn note_readiness(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.ending |= readiness.ending;
        if readiness.writable {
            self.writable = true;
            self.flush();
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

    /// Payload from the guest. It violates the protocol if it is more than we have room for, or
    /// comes outside of an open connection, or after the guest said that it sends no more.
    pub(crate) fn deliver(&mut self, data: &[u8]) -> Result<(), Violation> {
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
        let written = if self.backlog.is_empty() {
            self.write(data)
        } else {
            0
        };
        if self.sink_closed {
            self.forwarded = self.received;
        } else {
            self.backlog.extend(data.iter().skip(written));
        }
        Ok(())
    }

    /// Writes as much of `data` as the stream takes now.
    fn write(&mut self, data: &[u8]) -> usize {
        let mut written = 0;
        while self.writable && !self.sink_closed {
            let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            match self.stream.write(rest) {
                Ok(count) => {
                    written = written.saturating_add(count);
                    self.count_forwarded(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.close_sink(),
            }
        }
        written
    }

    fn count_forwarded(&mut self, count: usize) {
        self.forwarded += u32::try_from(count).unwrap_or(u32::MAX);
    }

    /// Nobody reads the stream: what the guest has sent is dropped, what it sends still counts.
    fn close_sink(&mut self) {
        self.sink_closed = true;
        self.backlog = VecDeque::new();
        self.forwarded = self.received;
    }

    fn flush(&mut self) {
        while self.writable && !self.backlog.is_empty() {
            let mut backlog = std::mem::take(&mut self.backlog);
            let written = self.write(backlog.as_slices().0);
            if !self.sink_closed {
                backlog.drain(..written);
                self.backlog = backlog;
            }
        }
        self.pass_end_on();
    }

    /// Ends the stream's direction once all before the guest's end has been written.
    fn pass_end_on(&mut self) {
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && self.backlog.is_empty() {
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

    /// Reads payload for the guest; 0 if there is none now, or never again.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> usize {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => {
                    self.source_ended = true;
                    return 0;
                }
                Ok(count) => {
                    // The next byte raises a new edge, but an end that was reported does not.
                    self.readable = count == buffer.len() || self.ending;
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
