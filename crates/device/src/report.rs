//! Lines for the log, which is stderr.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// At most this many lines in [`PERIOD`]: a guest must not fill the host's disk.
const BURST: u32 = 10;

/// See [`BURST`].
const PERIOD: Duration = Duration::from_secs(10);

struct Budget {
    since: Instant,
    used: u32,
    dropped: u32,
}

static BUDGET: Mutex<Option<Budget>> = Mutex::new(None);

/// Writes one line to the log, unless there were too many of late; then how many were left out
/// is said with the next one that is written.
pub fn report(line: &str) {
    let Some(dropped) = admit(Instant::now()) else {
        return;
    };
    let mut text = String::with_capacity(line.len().saturating_add(40));
    if dropped > 0 {
        text.push_str(&format!("({dropped} lines left out) "));
    }
    text.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
    text.push('\n');
    // A log that cannot be written has nowhere to say so.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// How many lines were dropped before this one, or `None` if this one is to be dropped too.
fn admit(now: Instant) -> Option<u32> {
    let mut budget = BUDGET.lock().ok()?;
    let budget = budget.get_or_insert(Budget {
        since: now,
        used: 0,
        dropped: 0,
    });
    if now.duration_since(budget.since) >= PERIOD {
        budget.since = now;
        budget.used = 0;
    }
    if budget.used >= BURST {
        budget.dropped = budget.dropped.saturating_add(1);
        return None;
    }
    budget.used = budget.used.saturating_add(1);
    Some(std::mem::take(&mut budget.dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_what_was_cut_is_counted() {
        let start = Instant::now();
        let admitted = (0..100).filter(|_| admit(start).is_some()).count();
        assert_eq!(admitted, 10);
        let later = start + PERIOD;
        assert_eq!(admit(later), Some(90));
        assert_eq!(admit(later), Some(0));
    }
}
