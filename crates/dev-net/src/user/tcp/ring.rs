//! Bytes that were sent and are not acknowledged yet.

/// A first-in-first-out buffer in one allocation, which grows up to a limit and is given back when
/// it is empty.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    bytes: Box<[u8]>,
    start: usize,
    length: usize,
}

/// The smallest allocation.
const SMALLEST: usize = 16 * 1024;

impl Ring {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Makes room for `more` bytes, as far as `limit` bytes in all; how many there is room for.
    pub(crate) fn reserve(&mut self, more: usize, limit: usize) -> usize {
        let wanted = self.length.saturating_add(more).min(limit);
        if wanted > self.capacity() {
            let capacity = wanted
                .next_power_of_two()
                .max(SMALLEST)
                .min(limit.max(wanted));
            let mut bytes = vec![0; capacity].into_boxed_slice();
            let [first, second] = self.slices(0, self.length);
            if let Some((to, rest)) = bytes.split_at_mut_checked(first.len())
                && let Some(rest) = rest.get_mut(..second.len())
            {
                to.copy_from_slice(first);
                rest.copy_from_slice(second);
            }
            self.bytes = bytes;
            self.start = 0;
        }
        wanted.saturating_sub(self.length)
    }

    /// Where the next bytes go: at most `count`, in two parts.
    pub(crate) fn spare(&mut self, count: usize) -> [&mut [u8]; 2] {
        let capacity = self.capacity();
        let count = count.min(capacity.saturating_sub(self.length));
        let end = self.start.saturating_add(self.length);
        if end >= capacity {
            let at = end.saturating_sub(capacity);
            let part = self.bytes.get_mut(at..at.saturating_add(count));
            return [part.unwrap_or_default(), &mut []];
        }
        let Some((front, back)) = self.bytes.split_at_mut_checked(end) else {
            return [&mut [], &mut []];
        };
        let here = count.min(back.len());
        let there = count.saturating_sub(here).min(front.len());
        [
            back.get_mut(..here).unwrap_or_default(),
            front.get_mut(..there).unwrap_or_default(),
        ]
    }

    /// `count` bytes of [`Ring::spare`] were filled.
    pub(crate) fn commit(&mut self, count: usize) {
        self.length = self.length.saturating_add(count).min(self.capacity());
    }

    /// `count` bytes from `offset` on, in two parts; fewer if there are fewer.
    pub(crate) fn slices(&self, offset: usize, count: usize) -> [&[u8]; 2] {
        let offset = offset.min(self.length);
        let count = count.min(self.length.saturating_sub(offset));
        let capacity = self.capacity();
        let mut at = self.start.saturating_add(offset);
        if at >= capacity {
            at = at.saturating_sub(capacity);
        }
        let here = count.min(capacity.saturating_sub(at));
        let there = count.saturating_sub(here);
        [
            self.bytes
                .get(at..at.saturating_add(here))
                .unwrap_or_default(),
            self.bytes.get(..there).unwrap_or_default(),
        ]
    }

    /// Forgets `count` bytes at the front.
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.length);
        self.length = self.length.saturating_sub(count);
        self.start = self.start.saturating_add(count);
        if self.start >= self.capacity() {
            self.start = self.start.saturating_sub(self.capacity());
        }
        if self.length == 0 {
            self.start = 0;
        }
    }

    /// Gives memory back if there is nothing in it.
    pub(crate) fn release(&mut self) {
        if self.length == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_queue_of_bytes(
            steps in prop::collection::vec((0..30_000_usize, 0..30_000_usize), 1..30),
        ) {
            const LIMIT: usize = 50_000;
            let mut ring = Ring::default();
            let mut model = VecDeque::new();
            let mut next = 0_u8;
            for (more, fewer) in steps {
                let room = ring.reserve(more, LIMIT);
                prop_assert_eq!(room, more.min(LIMIT - model.len()));
                let mut filled = 0;
                for part in ring.spare(room) {
                    for byte in part.iter_mut() {
                        *byte = next;
                        model.push_back(next);
                        next = next.wrapping_add(1);
                        filled += 1;
                    }
                }
                prop_assert_eq!(filled, room);
                ring.commit(room);
                prop_assert_eq!(ring.len(), model.len());
                let [first, second] = ring.slices(fewer / 2, 5_000);
                let expected: Vec<u8> = model.iter().skip(fewer / 2).take(5_000).copied().collect();
                prop_assert_eq!([first, second].concat(), expected);
                ring.consume(fewer);
                model.drain(..fewer.min(model.len()));
            }
        }
    }

    #[test]
    fn an_empty_one_takes_no_memory() {
        let mut ring = Ring::default();
        let room = ring.reserve(10, 100_000);
        ring.commit(room);
        ring.release();
        assert!(ring.capacity() > 0);
        ring.consume(10);
        ring.release();
        assert_eq!(ring.capacity(), 0);
    }
}
