//! One connection: the guest's TCP on one side, a socket of the host on the other.
//!
//! The host's kernel does the TCP that meets a network. Between the guest and us there is a ring
//! that loses nothing and keeps the order, so little of RFC 9293 is needed here: windows, and
//! retransmission for what the guest's own kernel drops. There is no congestion.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::Wrapping;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use device::serve::{Buffers, Readiness};

use super::ring::Ring;
use super::segment::{Flags, Segment, Seq, after, distance};

/// Names a connection. The guest's side may have begun it or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The guest wants it; the host does not have it yet.
    Dialing,
    /// The host has it; the guest has not acknowledged that.
    Answering,
    /// The host wants it; the guest has not answered.
    Calling,
    /// Both have it.
    Open,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on.
    On,
    /// It is over for both sides.
    Over,
    /// The host's side is lost: the guest is to be told.
    Lost,
    /// The guest reset it: the host's side is to be told.
    Dropped,
}

/// The time until the first retransmission, which doubles with each (RFC 6298, section 2). Losses
/// are so rare here that round trips are not worth measuring.
const RETRANSMIT: Duration = Duration::from_millis(500);

/// Retransmissions after which the guest counts as gone: with the time doubling, half an hour.
const MAX_ATTEMPTS: u8 = 12;

/// The same, of SYNs: 15 seconds.
const MAX_SYNS: u8 = 5;

/// How the windows that we announce are scaled.
const SCALE: u8 = 5;

/// What a header without options takes (RFC 9293, section 3.7.1): 536 bytes of data.
const DEFAULT_MSS: u16 = 536;

/// The most bytes sent before others have their turn.
const TURN: usize = 256 * 1024;

/// What is sent at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The largest payload of a segment that fits the link.
    pub(crate) mss: u16,
    /// The largest payload of a packet that the guest takes for several segments; the `mss` where
    /// it takes none.
    pub(crate) large: usize,
}

/// A segment to be sent: header, where in the ring its payload is, and how many bytes.
type Said = (Segment, usize, usize);

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: Key,
    phase: Phase,
    stream: Option<TcpStream>,
    /// In the list of connections that have something to say.
    pub(crate) listed: bool,
    /// When something is to be done without an event.
    pub(crate) deadline: Option<Instant>,
    /// The deadline is in the queue of timers, or an earlier one.
    pub(crate) timed: bool,
    /// Tells it from others that had its slot.
    pub(crate) generation: u32,
    /// When the guest or the host did something last.
    pub(crate) active: Instant,
    /// Bytes to keep in each direction.
    limit: usize,
    /// Bytes that came or went since the limit was set.
    moved: usize,

    // Host to guest.
    sent: Ring,
    /// The first byte that the guest has not acknowledged, which is the ring's first.
    una: Seq,
    /// The next byte to send. It goes back on retransmission.
    next: Seq,
    /// The end of all that was ever sent.
    highest: Seq,
    window: usize,
    largest_window: usize,
    guest_scale: u8,
    guest_mss: u16,
    readable: bool,
    ending: bool,
    /// The host will send nothing more.
    ended: bool,
    /// Reading failed.
    lost: bool,
    fin_sent: bool,
    duplicates: u8,
    /// No fast retransmission again before this is acknowledged (RFC 6582).
    recover: Option<Seq>,
    attempts: u8,

    // Guest to host.
    expected: Seq,
    backlog: Ring,
    writable: bool,
    guest_ended: bool,
    /// The window that the guest knows of.
    announced: usize,
    scaled: bool,

    syn_due: bool,
    ack_due: bool,
    resend_due: bool,
    probe_due: bool,
}

impl Connection {
    fn new(key: Key, phase: Phase, isn: Seq, limit: usize, now: Instant) -> Self {
        Self {
            key,
            phase,
            stream: None,
            listed: false,
            deadline: None,
            timed: false,
            generation: 0,
            active: now,
            limit,
            moved: 0,
            sent: Ring::default(),
            una: isn,
            next: isn,
            highest: isn,
            window: 0,
            largest_window: 0,
            guest_scale: 0,
            guest_mss: DEFAULT_MSS,
            // The loop says so when it begins to watch the stream.
            readable: false,
            ending: false,
            ended: false,
            lost: false,
            fin_sent: false,
            duplicates: 0,
            recover: None,
            attempts: 0,
            expected: Wrapping(0),
            backlog: Ring::default(),
            writable: true,
            guest_ended: false,
            announced: 0,
            scaled: false,
            syn_due: false,
            ack_due: false,
            resend_due: false,
            probe_due: false,
        }
    }

    /// The guest sent `syn`, and waits until [`Connection::connected`].
    pub(crate) fn dialing(key: Key, syn: &Segment, isn: Seq, limit: usize, now: Instant) -> Self {
        let mut connection = Self::new(key, Phase::Dialing, isn, limit, now);
        connection.note_syn(syn);
        connection
    }

    /// The host connected to a published port.
    pub(crate) fn calling(
        key: Key,
        stream: TcpStream,
        isn: Seq,
        limit: usize,
        now: Instant,
    ) -> Self {
        let mut connection = Self::new(key, Phase::Calling, isn, limit, now);
        connection.stream = Some(stream);
        connection.syn_due = true;
        connection.scaled = true;
        connection
    }

    /// What the guest's SYN says.
    fn note_syn(&mut self, syn: &Segment) {
        self.expected = syn.seq + Wrapping(1);
        self.guest_mss = syn.mss.unwrap_or(DEFAULT_MSS).max(1);
        self.scaled = syn.scale.is_some();
        self.guest_scale = syn.scale.unwrap_or(0);
        // The window of a SYN is never scaled (RFC 7323, section 2.2).
        self.set_window(syn.window.into());
    }

    /// The host's side is there.
    pub(crate) fn connected(&mut self, stream: TcpStream) {
        self.stream = Some(stream);
        self.phase = Phase::Answering;
        self.syn_due = true;
    }

    /// The number of the guest's SYN, while that is all that it sent.
    pub(crate) fn guest_isn(&self) -> Seq {
        self.expected - Wrapping(1)
    }

    /// Bytes that it may keep in each direction.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Sets what it may keep. What it keeps already stays, and a smaller window takes back what
    /// the guest was told, which costs a retransmission if it is used.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.moved = 0;
    }

    /// The limit, if as much was moved since it was set.
    pub(crate) fn outgrown(&self) -> Option<usize> {
        (self.moved >= self.limit).then_some(self.limit)
    }

    /// Whether it keeps nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.len() == 0 && self.backlog.len() == 0
    }

    /// Whether the host's side is still to come.
    pub(crate) fn is_dialing(&self) -> bool {
        self.phase == Phase::Dialing
    }

    pub(crate) fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// Ends the host's side so that its peer sees a reset, not an end.
    pub(crate) fn reset_stream(&self) {
        if let Some(stream) = &self.stream {
            let linger = nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            // If it fails the peer sees an end, which is the next best.
            let _ =
                nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger);
        }
    }

    /// The reset that tells the guest that the connection is lost.
    pub(crate) fn reset(&self) -> Segment {
        Segment {
            flags: Flags {
                rst: true,
                ack: self.phase != Phase::Calling,
                ..Flags::default()
            },
            ..self.segment(self.highest, false, false)
        }
    }

    /// Takes in what epoll says of the host's side.
    pub(crate) fn note_readiness(&mut self, readiness: Readiness, now: Instant) -> Fate {
        self.active = now;
        self.readable |= readiness.readable;
        self.ending |= readiness.ending;
        self.arm(now);
        if readiness.writable {
            self.writable = true;
            return self.flush();
        }
        Fate::On
    }

    fn set_window(&mut self, window: usize) {
        self.window = window;
        self.largest_window = self.largest_window.max(window);
    }

    /// Bytes that are on their way, a SYN or FIN among them.
    fn in_flight(&self) -> usize {
        distance(self.una, self.next).unwrap_or(0)
    }

    /// Bytes of the ring that were not sent since the last time that [`Self::next`] went back.
    fn unsent(&self) -> usize {
        let flying = self.in_flight();
        self.sent.len().saturating_sub(flying)
    }

    /// Bytes that the guest has room for.
    fn room(&self) -> usize {
        self.window.saturating_sub(self.in_flight())
    }

    /// Whether sending what fits now would be silly (RFC 9293, section 3.8.6.2.1): a small part of
    /// much, while an acknowledgement that makes room is on its way.
    fn is_silly(&self) -> bool {
        let worth = usize::from(self.guest_mss).min(self.largest_window / 2);
        self.in_flight() > 0 && self.room() < worth
    }

    fn may_read(&self) -> bool {
        self.readable
            && !(self.ended || self.lost)
            && self.room() > self.unsent()
            && self.sent.len() < self.limit
            && !self.is_silly()
    }

    fn may_send(&self) -> bool {
        self.phase == Phase::Open
            && (self.may_read() || (self.unsent() > 0 && self.room() > 0 && !self.is_silly()))
    }

    /// The end can be sent: it is known, and all before it was.
    fn is_fin_due(&self) -> bool {
        self.phase == Phase::Open && self.ended && !self.fin_sent && self.unsent() == 0
    }

    /// Whether [`Connection::say`] would yield something.
    pub(crate) fn has_something_to_say(&self) -> bool {
        self.lost
            || self.syn_due
            || self.ack_due
            || self.resend_due
            || self.probe_due
            || self.may_send()
            || self.is_fin_due()
    }

    /// A segment of the guest's.
    pub(crate) fn accept(
        &mut self,
        segment: &Segment,
        mut payload: Buffers<'_>,
        now: Instant,
    ) -> Fate {
        self.active = now;
        match self.phase {
            // The same SYN again, or nonsense; the answer comes from the dialer.
            Phase::Dialing if segment.flags.rst => Fate::Dropped,
            Phase::Dialing => Fate::On,
            Phase::Calling => self.accept_answer(segment),
            Phase::Answering | Phase::Open => self.accept_data(segment, &mut payload, now),
        }
    }

    /// The answer to our SYN (RFC 9293, section 3.10.7.3).
    fn accept_answer(&mut self, segment: &Segment) -> Fate {
        let Flags { syn, ack, rst, .. } = segment.flags;
        let acceptable = ack && segment.ack == self.highest && self.highest != self.una;
        if !acceptable {
            return Fate::On;
        }
        if rst {
            return Fate::Dropped;
        }
        if syn {
            self.note_syn(segment);
            self.una = segment.ack;
            self.next = segment.ack;
            self.opened();
            self.ack_due = true;
        }
        Fate::On
    }

    fn opened(&mut self) {
        self.phase = Phase::Open;
        self.attempts = 0;
        self.deadline = None;
        self.syn_due = false;
    }

    fn accept_data(&mut self, segment: &Segment, payload: &mut Buffers<'_>, now: Instant) -> Fate {
        let Flags { fin, syn, rst, .. } = segment.flags;
        if rst {
            return self.accept_reset(segment);
        }
        if syn {
            // The same SYN again wants the same answer; another one a challenge (RFC 5961).
            self.syn_due |= self.phase == Phase::Answering;
            self.ack_due |= self.phase == Phase::Open;
            return Fate::On;
        }
        if !segment.flags.ack || !self.accept_ack(segment, payload.is_empty() && !fin, now) {
            return Fate::On;
        }
        if segment.seq != self.expected {
            // Old, or from behind a gap: the guest learns where we are.
            self.ack_due = true;
        }
        if let Fate::Lost = self.accept_payload(segment, payload) {
            return Fate::Lost;
        }
        if fin && payload.is_empty() {
            self.accept_fin(segment);
            if self.flush() == Fate::Lost {
                return Fate::Lost;
            }
        }
        self.fate()
    }

    /// RFC 5961, section 3.2: exactly at the expected number, or it is challenged.
    fn accept_reset(&mut self, segment: &Segment) -> Fate {
        if segment.seq == self.expected {
            return Fate::Dropped;
        }
        let inside = distance(self.expected, segment.seq);
        self.ack_due |= inside.is_some_and(|bytes| bytes < self.limit);
        Fate::On
    }

    /// Takes in acknowledgement and window; false if the segment is not to be heeded.
    fn accept_ack(&mut self, segment: &Segment, bare: bool, now: Instant) -> bool {
        let Some(acked) = distance(self.una, segment.ack) else {
            // An old one; what comes with it may be new.
            return true;
        };
        if distance(segment.ack, self.highest).is_none() {
            // Of what was never sent.
            self.ack_due = true;
            return false;
        }
        if self.phase == Phase::Answering {
            if acked == 0 {
                return false;
            }
            self.una += 1;
            self.opened();
            return self.accept_ack(segment, bare, now);
        }
        let window = usize::from(segment.window)
            .checked_shl(self.guest_scale.into())
            .unwrap_or(0);
        // It is there, even if it stopped reading.
        self.attempts = 0;
        if acked > 0 {
            self.advance(segment.ack, acked);
        } else {
            let repeated = bare && window == self.window && self.in_flight() > 0;
            self.note_duplicate(repeated);
        }
        self.set_window(window);
        self.arm(now);
        true
    }

    /// The guest has everything up to `ack`.
    fn advance(&mut self, ack: Seq, acked: usize) {
        self.sent.consume(acked);
        self.una = ack;
        if distance(self.next, ack).is_some() {
            self.next = ack;
        }
        self.duplicates = 0;
        if let Some(recover) = self.recover {
            // Another hole behind the one that was filled (RFC 6582), or the end of them.
            let partial = distance(ack, recover).is_some_and(|bytes| bytes > 0);
            self.resend_due = partial && self.sent.len() > 0;
            self.recover = self.recover.filter(|_| partial);
        }
        self.deadline = None;
    }

    fn note_duplicate(&mut self, repeated: bool) {
        if !repeated {
            return;
        }
        self.duplicates = self.duplicates.saturating_add(1);
        if self.duplicates == 3 && self.recover.is_none() && self.sent.len() > 0 {
            self.resend_due = true;
            self.recover = Some(self.highest);
        }
    }

    /// Takes the new bytes of a segment that begins at or before the expected one. What is left
    /// of `payload` was not taken.
    fn accept_payload(&mut self, segment: &Segment, payload: &mut Buffers<'_>) -> Fate {
        let Some(old) = distance(segment.seq, self.expected) else {
            return Fate::On;
        };
        if payload.is_empty() {
            return Fate::On;
        }
        self.ack_due = true;
        self.moved = self.moved.saturating_add(payload.len());
        payload.advance(old);
        if self.guest_ended {
            payload.advance(payload.len());
            return Fate::On;
        }
        let space = self.limit.saturating_sub(self.backlog.len());
        while self.backlog.len() == 0 && self.writable && !payload.is_empty() {
            let Some(stream) = &self.stream else { break };
            match payload.write_to(stream.as_fd()) {
                Ok(count) => {
                    payload.advance(count);
                    self.expected = after(self.expected, count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Fate::Lost,
            }
        }
        let kept = self.keep(payload, space);
        self.expected = after(self.expected, kept);
        Fate::On
    }

    /// Copies up to `space` bytes to the backlog.
    fn keep(&mut self, payload: &mut Buffers<'_>, space: usize) -> usize {
        let wanted = payload.len().min(space);
        if wanted == 0 {
            return 0;
        }
        let wanted = self.backlog.reserve(wanted, self.limit);
        let mut kept = 0_usize;
        for part in self.backlog.spare(wanted) {
            let count = payload.peek(part);
            payload.advance(count);
            kept = kept.saturating_add(count);
        }
        self.backlog.commit(kept);
        kept
    }

    /// The end of what the guest sends, if everything before it has come.
    fn accept_fin(&mut self, segment: &Segment) {
        self.ack_due = true;
        if distance(segment.seq, self.expected).is_some() && !self.guest_ended {
            self.guest_ended = true;
            self.expected += 1;
        }
    }

    /// Writes what can be written of the backlog, and the end behind it.
    fn flush(&mut self) -> Fate {
        let Some(stream) = &mut self.stream else {
            return Fate::On;
        };
        while self.writable && self.backlog.len() > 0 {
            let [first, _] = self.backlog.slices(0, usize::MAX);
            match stream.write(first) {
                Ok(count) => self.backlog.consume(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Fate::Lost,
            }
        }
        if self.backlog.len() == 0 {
            self.backlog.release();
            if self.guest_ended {
                // It fails if the other side is gone, which reading tells.
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
        // A guest that was stopped has to hear that it may go on.
        let space = self.limit.saturating_sub(self.backlog.len());
        self.ack_due |= self.announced < self.limit / 4 && space >= self.limit / 2;
        self.fate()
    }

    /// Over once both ends were sent and acknowledged.
    fn fate(&self) -> Fate {
        if self.lost {
            return Fate::Lost;
        }
        let over = self.guest_ended
            && self.backlog.len() == 0
            && self.fin_sent
            && self.una == self.highest
            && !self.ack_due;
        if over { Fate::Over } else { Fate::On }
    }

    /// The time has come that [`Connection::deadline`] named.
    pub(crate) fn on_time(&mut self, now: Instant) -> Fate {
        self.deadline = None;
        self.attempts = self.attempts.saturating_add(1);
        match self.phase {
            Phase::Dialing => {}
            Phase::Answering | Phase::Calling if self.attempts > MAX_SYNS => return Fate::Lost,
            Phase::Answering | Phase::Calling => self.syn_due = true,
            Phase::Open if self.attempts > MAX_ATTEMPTS => return Fate::Lost,
            Phase::Open if self.in_flight() > 0 => {
                // Everything again, from the first byte that is missing.
                self.next = self.una;
                self.fin_sent = false;
                self.recover = None;
                self.resend_due = self.window == 0;
            }
            Phase::Open => self.probe_due = true,
        }
        self.arm(now);
        Fate::On
    }

    /// Sets the deadline for what is on its way, or for a window that stays shut, if there is none.
    fn arm(&mut self, now: Instant) {
        let shut = self.phase == Phase::Open && self.window == 0;
        let waiting = self.highest != self.una || (shut && self.readable && !self.ended);
        if self.deadline.is_none() && waiting {
            let factor = 1_u32.checked_shl(self.attempts.min(7).into()).unwrap_or(1);
            self.deadline = now.checked_add(RETRANSMIT.saturating_mul(factor));
        }
    }

    /// The next segments, each handed to `send`, which fails where the guest has no buffers: then
    /// nothing has happened. It stops after a turn's worth.
    pub(crate) fn say<E>(
        &mut self,
        limits: Limits,
        now: Instant,
        mut send: impl FnMut(&Key, Segment, [&[u8]; 2], u16) -> Result<(), E>,
    ) -> Result<Fate, E> {
        let mut turn = TURN;
        while let Some((segment, offset, length)) = self.next_segment(limits) {
            let payload = self.sent.slices(offset, length);
            send(&self.key, segment, payload, self.guest_mss.min(limits.mss))?;
            self.note_sent(&segment, length, now);
            turn = turn.saturating_sub(length);
            if turn == 0 {
                break;
            }
        }
        self.arm(now);
        Ok(self.fate())
    }

    fn next_segment(&mut self, limits: Limits) -> Option<Said> {
        if self.syn_due {
            return Some((self.syn(limits), 0, 0));
        }
        if self.phase != Phase::Open {
            return None;
        }
        let mss = usize::from(self.guest_mss.min(limits.mss));
        if self.resend_due {
            let length = self.sent.len().min(mss);
            return Some((self.segment(self.una, false, true), 0, length));
        }
        if self.may_read() && self.unsent() < mss {
            self.read();
        }
        if self.unsent() > 0 && self.room() > 0 && !self.is_silly() {
            let large = limits.large.max(mss);
            let large = large.saturating_sub(large.checked_rem(mss).unwrap_or(0));
            let length = self.unsent().min(self.room()).min(large);
            let last = length == self.unsent();
            return Some((
                self.segment(self.next, false, last),
                self.in_flight(),
                length,
            ));
        }
        if self.is_fin_due() {
            return Some((self.segment(self.next, true, false), 0, 0));
        }
        if self.probe_due {
            // A number that was acknowledged already: the guest must say where it is (RFC 9293,
            // section 3.8.6.1, with no data to spare).
            return Some((self.segment(self.una - Wrapping(1), false, false), 0, 0));
        }
        self.ack_due
            .then(|| (self.segment(self.next, false, false), 0, 0))
    }

    /// A segment with everything but ports, which are the key's.
    fn segment(&self, seq: Seq, fin: bool, psh: bool) -> Segment {
        Segment {
            source: self.key.remote.port(),
            destination: self.key.guest.port(),
            seq,
            ack: self.expected,
            flags: Flags {
                fin,
                psh,
                ack: true,
                ..Flags::default()
            },
            window: self.window_field(),
            mss: None,
            scale: None,
        }
    }

    fn window_field(&self) -> u16 {
        let space = self.limit.saturating_sub(self.backlog.len());
        let scaled = if self.scaled { space >> SCALE } else { space };
        u16::try_from(scaled).unwrap_or(u16::MAX)
    }

    fn syn(&self, limits: Limits) -> Segment {
        let answer = self.phase == Phase::Answering;
        let space = u16::try_from(self.limit).unwrap_or(u16::MAX);
        Segment {
            flags: Flags {
                syn: true,
                ack: answer,
                ..Flags::default()
            },
            ack: if answer { self.expected } else { Wrapping(0) },
            window: space,
            mss: Some(limits.mss),
            scale: self.scaled.then_some(SCALE),
            ..self.segment(self.una, false, false)
        }
    }

    fn note_sent(&mut self, segment: &Segment, length: usize, now: Instant) {
        self.active = now;
        if segment.flags.syn {
            self.syn_due = false;
            self.highest = self.una + Wrapping(1);
            self.next = self.highest;
            // A SYN's window is as much as fits its field; the guest hears of the rest in time.
            self.announced = self.limit;
            return;
        }
        let again = self.resend_due && segment.seq == self.una;
        if again {
            self.resend_due = false;
        } else if segment.flags.fin || length > 0 {
            self.next = after(self.next, length.max(usize::from(segment.flags.fin)));
            self.fin_sent |= segment.flags.fin;
            if distance(self.highest, self.next).is_some() {
                self.highest = self.next;
            }
        } else {
            self.probe_due = false;
        }
        self.ack_due = false;
        let space = self.limit.saturating_sub(self.backlog.len());
        self.announced = space;
    }

    /// Reads from the host what the guest has room for.
    fn read(&mut self) {
        let wanted = self.room().saturating_sub(self.unsent()).min(TURN);
        let wanted = self.sent.reserve(wanted, self.limit);
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut spare = self.sent.spare(wanted).map(IoSliceMut::new);
        match read(stream, &mut spare) {
            Ok(0) if wanted > 0 => self.ended = true,
            Ok(count) => {
                self.moved = self.moved.saturating_add(count);
                self.sent.commit(count);
                // The next byte raises a new edge, but an end that was reported does not.
                self.readable = count == wanted || self.ending;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                self.sent.release();
            }
            Err(_) => self.lost = true,
        }
    }
}

fn read(stream: &mut TcpStream, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    loop {
        match stream.read_vectored(buffers) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
