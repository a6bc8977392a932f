//! Connections by small numbers, and the order in which they speak.

use std::collections::VecDeque;

/// Something that may have something to say to the guest.
pub trait Speaker {
    /// Whether it has, now.
    fn has_something_to_say(&self) -> bool;
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    /// It is in the line.
    listed: bool,
}

/// Items in slots. A slot is a number that stays with an item for its life.
#[derive(Debug)]
pub struct Slots<T> {
    entries: Vec<Option<Entry<T>>>,
    free: Vec<u16>,
    /// Slots of those with something to say, next first.
    line: VecDeque<u16>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            line: VecDeque::new(),
        }
    }
}

impl<T: Speaker> Slots<T> {
    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len().saturating_sub(self.free.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item in a slot.
    pub fn get_mut(&mut self, slot: u16) -> Option<&mut T> {
        self.entry(slot).map(|entry| &mut entry.item)
    }

    fn entry(&mut self, slot: u16) -> Option<&mut Entry<T>> {
        self.entries.get_mut(usize::from(slot))?.as_mut()
    }

    /// All items with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &T)> {
        let entries = (0u16..).zip(&self.entries);
        entries.filter_map(|(slot, entry)| Some((slot, &entry.as_ref()?.item)))
    }

    /// As [`Slots::iter`], to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        let entries = (0u16..).zip(&mut self.entries);
        entries.filter_map(|(slot, entry)| Some((slot, &mut entry.as_mut()?.item)))
    }

    /// Adds an item; `None` if there are as many as there are numbers.
    pub fn insert(&mut self, item: T) -> Option<u16> {
        let entry = Some(Entry {
            item,
            listed: false,
        });
        if let Some(slot) = self.free.pop() {
            *self.entries.get_mut(usize::from(slot))? = entry;
            return Some(slot);
        }
        let slot = u16::try_from(self.entries.len()).ok()?;
        self.entries.push(entry);
        Some(slot)
    }

    /// Adds an item in a slot of its own choice; `false` if there is one in it.
    pub fn insert_at(&mut self, slot: u16, item: T) -> bool {
        let index = usize::from(slot);
        while let Ok(next) = u16::try_from(self.entries.len())
            && next <= slot
        {
            self.free.push(next);
            self.entries.push(None);
        }
        let Some(entry @ None) = self.entries.get_mut(index) else {
            return false;
        };
        *entry = Some(Entry {
            item,
            listed: false,
        });
        self.free.retain(|free| *free != slot);
        true
    }

    /// Takes an item out. Its slot is free for another.
    pub fn remove(&mut self, slot: u16) -> Option<T> {
        let entry = self.entries.get_mut(usize::from(slot))?.take()?;
        self.free.push(slot);
        Some(entry.item)
    }

    /// Puts an item at the end of the line if it has something to say and is not in it.
    pub fn enlist(&mut self, slot: u16) {
        if let Some(entry) = self.entry(slot)
            && !entry.listed
            && entry.item.has_something_to_say()
        {
            entry.listed = true;
            self.line.push_back(slot);
        }
    }

    /// Who speaks next; it stays first in line.
    pub fn speaker(&mut self) -> Option<u16> {
        loop {
            let slot = *self.line.front()?;
            let speaks = |entry: &mut Entry<T>| entry.listed && entry.item.has_something_to_say();
            if self.entry(slot).is_some_and(speaks) {
                return Some(slot);
            }
            self.step_down(slot);
        }
    }

    /// The one who spoke goes to the end of the line, or out of it.
    pub fn spoke(&mut self, slot: u16) {
        self.step_down(slot);
        self.enlist(slot);
    }

    fn step_down(&mut self, slot: u16) {
        self.line.pop_front();
        if let Some(entry) = self.entry(slot) {
            entry.listed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Speaker for u8 {
        fn has_something_to_say(&self) -> bool {
            *self > 0
        }
    }

    #[test]
    fn those_with_something_to_say_take_turns() {
        let mut slots = Slots::default();
        let all: Vec<u16> = [2, 0, 1]
            .into_iter()
            .filter_map(|words| slots.insert(words))
            .collect();
        for slot in &all {
            slots.enlist(*slot);
            slots.enlist(*slot);
        }
        let mut order = Vec::new();
        while let Some(slot) = slots.speaker() {
            order.push(slot);
            if let Some(words) = slots.get_mut(slot) {
                *words = words.saturating_sub(1);
            }
            slots.spoke(slot);
        }
        assert_eq!(order, [0, 2, 0]);
    }

    #[test]
    fn an_item_gets_the_slot_that_it_had() {
        let mut slots = Slots::default();
        assert!(slots.insert_at(2, 7_u8));
        assert!(!slots.insert_at(2, 8));
        assert_eq!(slots.len(), 1);
        let mut others = [slots.insert(1), slots.insert(2), slots.insert(3)];
        others.sort_unstable();
        assert_eq!(others, [Some(0), Some(1), Some(3)]);
        assert_eq!(slots.get_mut(2), Some(&mut 7));
    }

    #[test]
    fn a_slot_is_used_again_and_not_heard_for_the_one_before() {
        let mut slots = Slots::default();
        let slot = slots.insert(1);
        assert_eq!(slot, Some(0));
        slots.enlist(0);
        assert_eq!(slots.remove(0), Some(1));
        assert_eq!(slots.remove(0), None);
        assert!(slots.is_empty());
        assert_eq!(slots.insert(0_u8), Some(0));
        assert_eq!(slots.speaker(), None);
        assert_eq!(slots.iter().count(), 1);
    }
}
