//! What is to happen when.

use std::collections::BTreeSet;
use std::time::Instant;

/// Keys in the order of their deadlines.
#[derive(Debug)]
pub(crate) struct Deadlines<K>(BTreeSet<(Instant, K)>);

impl<K: Ord + Copy> Deadlines<K> {
    pub(crate) const fn new() -> Self {
        Self(BTreeSet::new())
    }

    pub(crate) fn insert(&mut self, deadline: Instant, key: K) {
        self.0.insert((deadline, key));
    }

    /// `deadline` is the one that `key` was inserted with.
    pub(crate) fn remove(&mut self, deadline: Instant, key: K) {
        self.0.remove(&(deadline, key));
    }

    /// The first deadline and whose it is.
    pub(crate) fn first(&self) -> Option<(Instant, K)> {
        self.0.first().copied()
    }

    /// The first whose deadline is over. It stays.
    pub(crate) fn due(&self, now: Instant) -> Option<K> {
        let due = self.first().filter(|(deadline, _)| *deadline <= now);
        due.map(|(_, key)| key)
    }
}
