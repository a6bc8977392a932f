//! One connection: the guest's TCP on one side, a socket of the host on the other.
//!
//! The host's kernel does the TCP that meets a network. Between the guest and us there is a ring
//! that loses nothing and keeps the order, so little of RFC 9293 is needed here: windows, and
//! retransmission for what the guest's own kernel drops. There is no congestion.

mod hear;
mod say;

use std::net::{SocketAddr, TcpStream};
use std::num::Wrapping;
use std::time::{Duration, Instant};

use device::serve::Readiness;

use super::ring::Ring;
use super::segment::{Flags, Segment, Seq, distance};

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

/// How long an acknowledgement waits for an answer of the host's to go with: half of what Linux waits
/// at least (RFC 9293, section 3.8.6.3, allows half a second).
const ACK_DELAY: Duration = Duration::from_millis(20);

/// Payloads of the guest's that were answered at once, one after the other, before the next is
/// expected to be.
const CONVERSATION: u8 = 8;

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

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) key: Key,
    phase: Phase,
    stream: Option<TcpStream>,
    /// When something is to be done without an event.
    pub(crate) deadline: Option<Instant>,
    /// The deadline is in the queue of timers, or an earlier one.
    pub(crate) timed: bool,
    /// Tells it from others that had its slot.
    pub(crate) generation: u32,
    /// The pair of queues by which the guest sends.
    pub(crate) pair: u16,
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
    /// The host's side was told of the guest's end.
    end_passed: bool,
    /// The window that the guest knows of.
    announced: usize,
    scaled: bool,

    /// When the guest sent the payload that nothing was sent after.
    heard: Option<Instant>,
    /// Payloads that were answered at once, up to [`CONVERSATION`].
    answered: u8,
    /// An acknowledgement waits until then.
    pub(crate) ack_by: Option<Instant>,
    /// It is in the queue of those that wait.
    pub(crate) ack_listed: bool,

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
            deadline: None,
            timed: false,
            generation: 0,
            pair: 0,
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
            end_passed: false,
            announced: 0,
            scaled: false,
            heard: None,
            answered: 0,
            ack_by: None,
            ack_listed: false,
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
    pub(crate) fn is_due(&self) -> bool {
        self.lost
            || self.syn_due
            || self.ack_due
            || self.resend_due
            || self.probe_due
            || self.may_send()
            || self.is_fin_due()
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

    /// The guest is owed an acknowledgement: by itself, or with an answer that will come at once.
    fn owe_ack(&mut self, now: Instant) {
        self.heard = Some(now);
        // Every second one at the latest (RFC 9293, section 3.8.6.3).
        if self.answered == CONVERSATION && self.ack_by.is_none() {
            self.ack_by = now.checked_add(ACK_DELAY);
        } else {
            self.ack_due = true;
        }
    }

    /// The time has come that [`Connection::ack_by`] named: there was no answer.
    pub(crate) fn ack_alone(&mut self) {
        self.ack_by = None;
        self.ack_due = true;
        self.answered = 0;
    }

    /// Payload goes to the guest.
    fn note_answer(&mut self, now: Instant) {
        let Some(heard) = self.heard.take() else {
            return;
        };
        let soon = now.saturating_duration_since(heard) < ACK_DELAY;
        self.answered = if soon {
            self.answered.saturating_add(1).min(CONVERSATION)
        } else {
            0
        };
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
}
