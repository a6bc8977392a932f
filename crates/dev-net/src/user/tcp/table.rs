//! The connections, by slot and by addresses; what they may keep; their timers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use device::serve::{Slots, Speaker};

use super::connection::{Connection, Key};

/// The most connections at a time.
pub(crate) const MAX_CONNECTIONS: usize = 8192;

/// Connections that wait for the dialer, among them.
pub(crate) const MAX_DIALING: usize = 1024;

/// A connection that did nothing for this long may make room for another.
const IDLE: Duration = Duration::from_secs(10);

/// The bytes that a connection may keep in each direction at first. All connections together:
/// 2 * 8192 * 16 KiB = 256 MiB.
const SMALL: usize = 16 * 1024;

/// The same, of one that moves much.
const LARGE: usize = 1024 * 1024;

/// What all connections together may have beyond [`SMALL`]: 2 * 96 MiB.
const EXTRA: usize = 96 * 1024 * 1024;

/// When, whose, and which of those that had the slot.
type Timer = (Instant, u16, u32);

impl Speaker for Connection {
    fn has_something_to_say(&self) -> bool {
        self.is_due()
    }
}

/// Connections.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Slots<Connection>,
    by_key: HashMap<Key, u16>,
    timers: BinaryHeap<Reverse<Timer>>,
    /// Acknowledgements that wait. All wait equally long, so the first is the next.
    acks: VecDeque<Timer>,
    generations: u32,
    dialing: usize,
    /// Used up of [`EXTRA`].
    extra: usize,
}

impl Table {
    /// The bytes that a new connection may keep in each direction; none if there are too many.
    pub(crate) fn limit(&self) -> Option<usize> {
        (self.slots.len() < MAX_CONNECTIONS).then_some(SMALL)
    }

    /// Lets a connection that moved as much as it may keep have twice that.
    pub(crate) fn grow(&mut self, slot: u16, now: Instant) {
        let Some(limit) = self.get_mut(slot).and_then(|one| one.outgrown()) else {
            return;
        };
        if self.extra.saturating_add(limit) > EXTRA {
            self.reclaim(now);
        }
        if limit < LARGE
            && self.extra.saturating_add(limit) <= EXTRA
            && let Some(connection) = self.get_mut(slot)
        {
            connection.set_limit(limit.saturating_mul(2));
            self.extra = self.extra.saturating_add(limit);
        }
    }

    /// Takes from those that do nothing what they have beyond the least.
    fn reclaim(&mut self, now: Instant) {
        for (_, connection) in self.slots.iter_mut() {
            if now.saturating_duration_since(connection.active) >= IDLE && connection.is_empty() {
                let extra = connection.limit().saturating_sub(SMALL);
                connection.set_limit(SMALL);
                self.extra = self.extra.saturating_sub(extra);
            }
        }
    }

    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut Connection> {
        self.slots.get_mut(slot)
    }

    pub(crate) fn find(&self, key: &Key) -> Option<u16> {
        self.by_key.get(key).copied()
    }

    /// Whether another one may wait for the dialer.
    pub(crate) fn may_dial(&self) -> bool {
        self.dialing < MAX_DIALING
    }

    /// The one that did nothing for the longest time, if there must be room for another. It is for
    /// the caller to remove.
    pub(crate) fn victim(&self, now: Instant) -> Option<u16> {
        if self.slots.len() < MAX_CONNECTIONS {
            return None;
        }
        let all = self.slots.iter();
        let oldest = all
            .map(|(slot, connection)| (connection.active, slot))
            .min()?;
        let idle = now.saturating_duration_since(oldest.0) >= IDLE;
        idle.then_some(oldest.1)
    }

    /// Adds a connection whose key is not in use; `None` if there are too many.
    pub(crate) fn insert(&mut self, mut connection: Connection) -> Option<u16> {
        if self.slots.len() >= MAX_CONNECTIONS {
            return None;
        }
        let key = connection.key;
        let dialing = usize::from(connection.is_dialing());
        self.generations = self.generations.wrapping_add(1);
        connection.generation = self.generations;
        let slot = self.slots.insert(connection)?;
        self.dialing = self.dialing.saturating_add(dialing);
        self.by_key.insert(key, slot);
        Some(slot)
    }

    /// One of those that wait for the dialer does not any more.
    pub(crate) fn dialed(&mut self) {
        self.dialing = self.dialing.saturating_sub(1);
    }

    pub(crate) fn remove(&mut self, slot: u16) -> Option<Connection> {
        let connection = self.slots.remove(slot)?;
        if connection.is_dialing() {
            self.dialed();
        }
        let extra = connection.limit().saturating_sub(SMALL);
        self.extra = self.extra.saturating_sub(extra);
        self.by_key.remove(&connection.key);
        Some(connection)
    }

    /// Every slot in use.
    pub(crate) fn slots(&self) -> Vec<u16> {
        self.slots.iter().map(|(slot, _)| slot).collect()
    }

    /// Puts a connection in line if it has something to say, and what it waits for among the
    /// timers.
    pub(crate) fn enlist(&mut self, slot: u16) {
        self.slots.enlist(slot);
        let Some(connection) = self.slots.get_mut(slot) else {
            return;
        };
        if let Some(deadline) = connection.deadline
            && !connection.timed
        {
            connection.timed = true;
            let timer = (deadline, slot, connection.generation);
            self.timers.push(Reverse(timer));
        }
        if let Some(at) = connection.ack_by
            && !connection.ack_listed
        {
            connection.ack_listed = true;
            self.acks.push_back((at, slot, connection.generation));
        }
    }

    /// Who speaks next; it stays first in line.
    pub(crate) fn speaker(&mut self) -> Option<u16> {
        self.slots.speaker()
    }

    /// The one who spoke goes to the end of the line, or out of it.
    pub(crate) fn spoke(&mut self, slot: u16) {
        self.slots.spoke(slot);
    }

    /// When the next timer runs out. It may turn out to be one that does not count any more.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _, _))| *at);
        let ack = self.acks.front().map(|(at, _, _)| *at);
        [timer, ack].into_iter().flatten().min()
    }

    /// The next connection whose acknowledgement has waited long enough.
    pub(crate) fn late_ack(&mut self, now: Instant) -> Option<u16> {
        while let Some((_, slot, generation)) = self.acks.pop_front_if(|(at, _, _)| *at <= now) {
            let Some(connection) = self.get_mut(slot) else {
                continue;
            };
            if connection.generation != generation {
                continue;
            }
            connection.ack_listed = false;
            if connection.ack_by.is_some_and(|at| at <= now) {
                return Some(slot);
            }
            // It is another one by now.
            self.enlist(slot);
        }
        None
    }

    /// The next connection whose deadline has passed.
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<u16> {
        while let Some(Reverse((at, slot, generation))) = self.timers.peek().copied() {
            if at > now {
                return None;
            }
            self.timers.pop();
            let Some(connection) = self.get_mut(slot) else {
                continue;
            };
            if connection.generation != generation {
                continue;
            }
            connection.timed = false;
            match connection.deadline {
                Some(deadline) if deadline <= now => return Some(slot),
                // It was moved since.
                _ => self.enlist(slot),
            }
        }
        None
    }
}
