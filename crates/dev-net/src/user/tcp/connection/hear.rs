//! What the guest sends: acknowledgements, payload, its end, a reset.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Instant;

use device::serve::Buffers;

use super::super::segment::{Flags, Segment, Seq, after, distance};
use super::{Connection, Fate, Phase};

impl Connection {
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
        if let Fate::Lost = self.accept_payload(segment, payload, now) {
            return Fate::Lost;
        }
        // The guest learns at once that there is no room.
        self.ack_due |= !payload.is_empty();
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
    fn accept_payload(
        &mut self,
        segment: &Segment,
        payload: &mut Buffers<'_>,
        now: Instant,
    ) -> Fate {
        let Some(old) = distance(segment.seq, self.expected) else {
            return Fate::On;
        };
        if payload.is_empty() {
            return Fate::On;
        }
        self.owe_ack(now);
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
    pub(super) fn flush(&mut self) -> Fate {
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
            if self.guest_ended && !self.end_passed {
                // Once: each time is an edge to epoll, which would come back here for ever.
                self.end_passed = true;
                // It fails if the other side is gone, which reading tells.
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
        // A guest that was stopped has to hear that it may go on.
        let space = self.limit.saturating_sub(self.backlog.len());
        self.ack_due |= self.announced < self.limit / 4 && space >= self.limit / 2;
        self.fate()
    }
}
