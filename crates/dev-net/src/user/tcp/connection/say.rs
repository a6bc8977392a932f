//! What the guest gets: payload from the host, acknowledgements, the host's end.

use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::net::TcpStream;
use std::num::Wrapping;
use std::time::Instant;

use super::super::segment::{Flags, Segment, Seq, after, distance};
use super::{Connection, Fate, Key, Limits, Phase, SCALE, TURN};

/// A segment to be sent: header, where in the ring its payload is, and how many bytes.
type Said = (Segment, usize, usize);

impl Connection {
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
    pub(super) fn segment(&self, seq: Seq, fin: bool, psh: bool) -> Segment {
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
        if length > 0 && !again {
            self.note_answer(now);
        }
        self.ack_due = false;
        self.ack_by = None;
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
