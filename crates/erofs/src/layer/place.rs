//! Where inodes go. One that has the end of its contents beside it must not reach over the edge of a
//! block, so free rests of blocks are filled with what fits best.

use std::collections::BTreeMap;

use crate::format::{BLOCK, SLOT};

/// The space for inodes, from its first block on.
#[derive(Debug)]
pub(super) struct Space {
    /// Begun blocks, by how many bytes at their end are free.
    rests: BTreeMap<usize, Vec<u64>>,
    /// How many blocks there are.
    blocks: u64,
}

impl Space {
    /// One block, whose first 64 bytes stay free: an inode of number 0 would be taken for none.
    pub(super) fn new() -> Self {
        let free = BLOCK.saturating_sub(SLOT.saturating_mul(2));
        Self {
            rests: BTreeMap::from([(free, vec![0])]),
            blocks: 1,
        }
    }

    pub(super) const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// A place for `size` bytes, in one block if they fit into one: bytes from the beginning.
    pub(super) fn take(&mut self, size: usize) -> u64 {
        let size = size.next_multiple_of(SLOT);
        let best = self.rests.range(size..).next().map(|(free, _)| *free);
        let (block, free) = match best.and_then(|free| Some((self.pop(free)?, free))) {
            Some(found) => found,
            None => {
                let blocks = size.div_ceil(BLOCK).max(1);
                let first = self.blocks;
                self.blocks = self.blocks.saturating_add(blocks as u64);
                (first, blocks.saturating_mul(BLOCK))
            }
        };
        let left = free.saturating_sub(size);
        let last = block.saturating_add((free.div_ceil(BLOCK).saturating_sub(1)) as u64);
        if left >= SLOT {
            self.rests.entry(left).or_default().push(last);
        }
        let used = (BLOCK.saturating_sub(free.min(BLOCK))) as u64;
        block.saturating_mul(BLOCK as u64).saturating_add(used)
    }

    /// A block with so many free bytes.
    fn pop(&mut self, free: usize) -> Option<u64> {
        let blocks = self.rests.get_mut(&free)?;
        let block = blocks.pop();
        if blocks.is_empty() {
            self.rests.remove(&free);
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_do_not_overlap_and_do_not_reach_over_an_edge(
            sizes in proptest::collection::vec(prop_oneof![64_usize..600, 64_usize..20_000], 1..200),
        ) {
            let mut space = Space::new();
            let mut places: Vec<_> = sizes.iter().map(|size| (space.take(*size), *size)).collect();
            prop_assert!(places[0].0 >= 64);
            places.sort_unstable();
            let block = BLOCK as u64;
            for pair in places.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 as u64 <= pair[1].0);
            }
            for (at, size) in places {
                let size = size as u64;
                prop_assert_eq!(at % SLOT as u64, 0);
                prop_assert!(size > block || at / block == (at + size - 1) / block);
                prop_assert!(at + size <= space.blocks() * block);
            }
        }
    }
}
