//! How often, and why, vCPUs exit to us.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hv::ExitKind;

/// The exits of one vCPU. Its thread alone adds, others read.
#[derive(Debug, Default)]
pub(crate) struct Exits([AtomicU64; ExitKind::ALL.len()]);

impl Exits {
    pub(crate) fn count(&self, kind: ExitKind) {
        if let Some(counter) = self.0.get(kind as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The exits of all vCPUs.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Vec<Arc<Exits>>>);

impl Counters {
    /// Counters for one more vCPU.
    pub(crate) fn add(&self) -> Arc<Exits> {
        let exits = Arc::new(Exits::default());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&exits));
        exits
    }

    /// The sums by name.
    pub(crate) fn sums(&self) -> BTreeMap<String, u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |kind: ExitKind| {
            let counters = all.iter().filter_map(|exits| exits.0.get(kind as usize));
            counters.fold(0u64, |sum, c| sum.saturating_add(c.load(Ordering::Relaxed)))
        };
        ExitKind::ALL
            .into_iter()
            .map(|kind| (kind.name().to_owned(), sum(kind)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_summed_over_vcpus() {
        let counters = Counters::default();
        let (one, two) = (counters.add(), counters.add());
        one.count(ExitKind::PioWrite);
        two.count(ExitKind::PioWrite);
        two.count(ExitKind::MmioRead);
        let sums = counters.sums();
        assert_eq!(
            (sums["pio-write"], sums["mmio-read"], sums["other"]),
            (2, 1, 0)
        );
    }

    #[test]
    fn every_kind_has_its_own_counter() {
        for (index, kind) in ExitKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
    }
}
