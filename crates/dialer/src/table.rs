//! Who exchanges datagrams with whom.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::deadlines::Deadlines;
use crate::outside::Carrier;

/// At most this many; a further one takes the place of the one that would end first.
const MAX: usize = 4096;

/// A flow without datagrams ends; the time that RFC 4787 (REQ-5) allows if it is configured.
const IDLE: Duration = Duration::from_secs(60);

/// As [`IDLE`], for services with one question and one answer: DNS and NTP.
const IDLE_SHORT: Duration = Duration::from_secs(30);
const SHORT: [u16; 2] = [53, 123];

/// A deadline is moved only by this much or more, so that not every datagram costs that.
const STEP: Duration = Duration::from_secs(1);

/// What tells flows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) carrier: Carrier,
    /// The guest's port, or the identifier of its echo requests.
    pub(crate) port: u16,
    /// The other side.
    pub(crate) remote: SocketAddr,
}

/// A flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    /// The guest's address, unspecified as long as it has not sent anything.
    pub(crate) guest: SocketAddr,
    /// The other side as the guest calls it.
    pub(crate) remote: SocketAddr,
    /// The socket's number.
    pub(crate) socket: u64,
}

/// Flows and when they end.
#[derive(Debug)]
pub(crate) struct Table {
    flows: HashMap<Key, (Flow, Instant)>,
    deadlines: Deadlines<Key>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            flows: HashMap::new(),
            deadlines: Deadlines::new(),
        }
    }

    /// When the first flow ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Flow> {
        self.flows.get(key).map(|(flow, _)| *flow)
    }

    /// The flow of a datagram that passes now.
    pub(crate) fn pass(&mut self, key: Key, now: Instant) -> Option<&mut Flow> {
        let (flow, deadline) = self.flows.get_mut(&key)?;
        let later = idle(&key, now);
        if later.saturating_duration_since(*deadline) >= STEP {
            self.deadlines.remove(*deadline, key);
            self.deadlines.insert(later, key);
            *deadline = later;
        }
        Some(flow)
    }

    /// A new flow; the one whose place it takes, if there is no other.
    pub(crate) fn insert(&mut self, key: Key, flow: Flow, now: Instant) -> Option<Flow> {
        let oldest = self.deadlines.first().map(|(_, key)| key);
        let full = self.flows.len() >= MAX;
        let gone = oldest.filter(|_| full).and_then(|key| self.remove(key));
        let deadline = idle(&key, now);
        self.flows.insert(key, (flow, deadline));
        self.deadlines.insert(deadline, key);
        gone
    }

    /// A flow that was idle for too long, if there is one.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Flow> {
        let key = self.deadlines.due(now)?;
        self.remove(key)
    }

    fn remove(&mut self, key: Key) -> Option<Flow> {
        let (flow, deadline) = self.flows.remove(&key)?;
        self.deadlines.remove(deadline, key);
        Some(flow)
    }
}

/// When a flow ends that nothing passes after `now`.
fn idle(key: &Key, now: Instant) -> Instant {
    let limit = if SHORT.contains(&key.remote.port()) {
        IDLE_SHORT
    } else {
        IDLE
    };
    now.checked_add(limit).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        let port = u16::try_from(number).unwrap();
        let remote = SocketAddr::from(([192, 0, 2, 1], 443));
        Key {
            carrier: Carrier::Udp,
            port,
            remote,
        }
    }

    fn flow(number: usize) -> Flow {
        let remote = key(number).remote;
        Flow {
            guest: remote,
            remote,
            socket: number as u64,
        }
    }

    #[test]
    fn a_full_table_loses_the_flow_that_was_idle_for_longest() {
        let (mut table, start) = (Table::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for number in 0..MAX {
            assert!(table.insert(key(number), flow(number), at(0)).is_none());
        }
        // The first one is used again.
        assert!(table.pass(key(0), at(5)).is_some());
        let gone = table.insert(key(MAX), flow(MAX), at(6)).unwrap();
        assert_eq!(gone.socket, 1);
        assert!(table.get(&key(0)).is_some() && table.get(&key(1)).is_none());
    }

    #[test]
    fn a_flow_ends_a_minute_after_its_last_datagram() {
        let (mut table, start) = (Table::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        table.insert(key(1), flow(1), at(0));
        table.pass(key(1), at(30));
        assert!(table.expire(at(89)).is_none());
        assert_eq!(table.deadline(), Some(at(90)));
        assert!(table.expire(at(90)).is_some());
        assert_eq!(table.deadline(), None);
    }

    #[test]
    fn a_question_s_flow_ends_sooner() {
        let (mut table, start) = (Table::new(), Instant::now());
        let question = Key {
            remote: SocketAddr::from(([192, 0, 2, 1], 53)),
            ..key(1)
        };
        table.insert(question, flow(1), start);
        assert!(table.expire(start + IDLE_SHORT).is_some());
    }
}
