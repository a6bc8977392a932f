//! Token buckets: so many bytes and packets a second, and no more.

use std::time::{Duration, Instant};

/// One kind of token.
#[derive(Debug, Clone, Copy)]
struct Tokens {
    /// Tokens a second.
    rate: u64,
    /// The most that are kept.
    burst: i64,
    /// Below zero after something large: that has to be waited off.
    level: i64,
    /// When `level` was true.
    since: Instant,
}

impl Tokens {
    fn new(rate: u64, burst: u64, now: Instant) -> Self {
        let burst = i64::try_from(burst).unwrap_or(i64::MAX).max(1);
        Self {
            rate,
            burst,
            level: burst,
            since: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let new = passed.as_nanos().saturating_mul(self.rate.into()) / 1_000_000_000;
        // Time that yields no token yet is not lost.
        if let Ok(new) = i64::try_from(new)
            && new > 0
        {
            self.level = self.level.saturating_add(new).min(self.burst);
            self.since = now;
        }
    }

    fn take(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.level = self.level.saturating_sub(count);
    }

    /// How long until there is a token.
    fn wait(&self) -> Duration {
        let missing = u64::try_from(1_i64.saturating_sub(self.level)).unwrap_or(0);
        let nanos = missing.saturating_mul(1_000_000_000).checked_div(self.rate);
        Duration::from_nanos(nanos.unwrap_or(0).max(1))
    }
}

/// A bucket for bytes and one for packets, each if there is a limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    bytes: Option<Tokens>,
    packets: Option<Tokens>,
}

impl Bucket {
    pub(crate) fn new(rate: Option<wire::net::Rate>, now: Instant) -> Self {
        let bytes = rate.and_then(|rate| Some(Tokens::new(rate.bytes?, rate.burst, now)));
        // A tenth of a second's worth may go at once.
        let packets = rate.and_then(|rate| rate.packets);
        let packets = packets.map(|rate| Tokens::new(rate, rate.div_ceil(10), now));
        Self { bytes, packets }
    }

    fn kinds(&mut self) -> impl Iterator<Item = &mut Tokens> {
        self.bytes.iter_mut().chain(&mut self.packets)
    }

    /// Lets time pass.
    pub(crate) fn refill(&mut self, now: Instant) {
        for tokens in self.kinds() {
            tokens.refill(now);
        }
    }

    /// Whether a packet may pass.
    pub(crate) fn is_open(&self) -> bool {
        let empty = |tokens: Option<Tokens>| tokens.is_some_and(|tokens| tokens.level <= 0);
        !empty(self.bytes) && !empty(self.packets)
    }

    /// A packet passed.
    pub(crate) fn take(&mut self, bytes: usize) {
        if let Some(tokens) = &mut self.bytes {
            tokens.take(bytes);
        }
        if let Some(tokens) = &mut self.packets {
            tokens.take(1);
        }
    }

    /// How long until a packet may pass; `None` if one may now.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let waits = [self.bytes, self.packets].into_iter().flatten();
        let empty = waits.filter(|tokens| tokens.level <= 0);
        empty.map(|tokens| tokens.wait()).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(bytes: Option<u64>, packets: Option<u64>, now: Instant) -> Bucket {
        let rate = wire::net::Rate {
            bytes,
            burst: 1000,
            packets,
        };
        Bucket::new(Some(rate), now)
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let mut bucket = Bucket::new(None, Instant::now());
        bucket.take(usize::MAX);
        assert!(bucket.is_open() && bucket.wait().is_none());
    }

    #[test]
    fn a_debt_is_waited_off_at_the_rate() {
        let start = Instant::now();
        let mut bucket = bucket(Some(10_000), None, start);
        bucket.take(3000);
        assert!(!bucket.is_open());
        // 2001 bytes at 10,000 a second.
        assert_eq!(bucket.wait(), Some(Duration::from_micros(200_100)));
        bucket.refill(start + Duration::from_millis(200));
        assert!(!bucket.is_open());
        bucket.refill(start + Duration::from_micros(200_100));
        assert!(bucket.is_open());
    }

    #[test]
    fn a_long_pause_saves_no_more_than_the_burst() {
        let start = Instant::now();
        let mut bucket = bucket(Some(10_000), None, start);
        bucket.refill(start + Duration::from_secs(3600));
        bucket.take(1000);
        assert!(!bucket.is_open());
    }

    #[test]
    fn packets_count_whatever_their_size() {
        let start = Instant::now();
        let mut bucket = bucket(None, Some(20), start);
        bucket.take(60_000);
        assert!(bucket.is_open());
        bucket.take(1);
        assert!(!bucket.is_open());
        bucket.refill(start + Duration::from_millis(50));
        assert!(bucket.is_open());
    }

    #[test]
    fn small_steps_add_up_to_the_rate() {
        let start = Instant::now();
        let mut bucket = bucket(Some(1000), None, start);
        bucket.take(2000);
        // Each step is worth 0.1 of a byte.
        for step in 0..=10_010_u32 {
            bucket.refill(start + step * Duration::from_micros(100));
        }
        assert!(bucket.is_open());
    }
}
