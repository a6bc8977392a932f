//! What the guest calls inodes and handles, and what this process calls them.
//!
//! virtiofsd numbers both as it goes, so the numbers of one process mean nothing to the next. The guest
//! is given slots of the [`Journal`] instead, which every process fills in its own way.

use std::collections::BTreeMap;
use std::io;

use nix::errno::Errno;
use virtiofsd::fuse::ROOT_ID;

use crate::journal::{Journal, Open, Place, QUEUES};

/// The served directory's slot.
pub(crate) const ROOT: u32 = 0;

/// A slot's counterpart in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inner {
    /// The slot is free.
    None,
    /// Another process used it, and it was not looked for yet.
    Unfound,
    /// It was not found again: its name was removed or given to another file.
    Lost,
    /// virtiofsd's number.
    Is(u64),
}

/// The slots of one kind.
#[derive(Debug, Default)]
struct Slots {
    inner: Vec<Inner>,
    free: Vec<u32>,
}

impl Slots {
    /// virtiofsd's number for what the guest calls so.
    fn inner(&self, name: u64) -> io::Result<u64> {
        match slot_of(name).map_or(Inner::None, |slot| self.get(slot)) {
            Inner::Is(inner) => Ok(inner),
            Inner::Lost | Inner::Unfound => Err(Errno::ESTALE.into()),
            Inner::None => Err(Errno::EBADF.into()),
        }
    }

    fn get(&self, slot: u32) -> Inner {
        let slot = usize::try_from(slot).ok();
        let inner = slot.and_then(|slot| self.inner.get(slot));
        inner.copied().unwrap_or(Inner::None)
    }

    fn set(&mut self, slot: u32, inner: Inner) {
        let Ok(slot) = usize::try_from(slot) else {
            return;
        };
        if self.inner.len() <= slot {
            self.inner.resize(slot.saturating_add(1), Inner::None);
        }
        if let Some(place) = self.inner.get_mut(slot) {
            *place = inner;
        }
    }

    fn free(&mut self, slot: u32) {
        self.set(slot, Inner::None);
        self.free.push(slot);
    }
}

/// Both kinds of numbers, and the journal in which the guest's are kept.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) journal: Journal,
    inodes: Slots,
    handles: Slots,
    /// Slots by virtiofsd's numbers.
    known: BTreeMap<u64, u32>,
    /// Slots of inodes that were not looked for yet, by the inodes' numbers on the host.
    unfound: BTreeMap<u64, Vec<u32>>,
    /// Slots that the guest no longer knows once it has the answer.
    forgotten: Vec<u32>,
    /// A process before this one began the session.
    resumes: bool,
}

/// What the guest calls a slot. 0 is no inode, and the directory is 1.
pub(crate) fn name_of(slot: u32) -> u64 {
    u64::from(slot).saturating_add(1)
}

/// The slot that the guest means.
pub(crate) fn slot_of(name: u64) -> Option<u32> {
    u32::try_from(name.checked_sub(1)?).ok()
}

impl Table {
    pub(crate) fn new(journal: Journal) -> Self {
        let mut table = Self {
            journal,
            inodes: Slots::default(),
            handles: Slots::default(),
            known: BTreeMap::new(),
            unfound: BTreeMap::new(),
            forgotten: Vec::new(),
            resumes: false,
        };
        table.clear();
        table
    }

    /// Forgets what this process knows.
    fn clear(&mut self) {
        (self.inodes, self.handles) = (Slots::default(), Slots::default());
        self.inodes.set(ROOT, Inner::Is(ROOT_ID));
        self.known = BTreeMap::from([(ROOT_ID, ROOT)]);
        self.unfound.clear();
        self.forgotten.clear();
    }

    /// A session begins: the guest knows nothing yet.
    pub(crate) fn begin_session(&mut self) {
        self.clear();
        self.journal.clear();
        // Its slot is the directory's, which is not written down.
        let _ = self.journal.new_inode();
    }

    /// Another driver has taken over.
    pub(crate) fn restart(&mut self, used: [Option<u16>; QUEUES]) {
        self.clear();
        self.journal.restart(used);
    }

    /// The session of a process before this one goes on, which is to be told its first request.
    pub(crate) fn resume(&mut self, used: [Option<u16>; QUEUES]) -> Option<Vec<u8>> {
        self.journal.settle(used);
        let init = self.journal.init();
        self.resumes = init.is_some();
        init
    }

    /// Whether the request that is handled now was answered by a process before this one.
    pub(crate) fn resumes(&self) -> bool {
        self.resumes
    }

    /// What cannot wait is found again.
    pub(crate) fn resumed(&mut self) {
        self.resumes = false;
    }

    /// virtiofsd's number for an inode of the guest's.
    pub(crate) fn inode(&self, name: u64) -> io::Result<u64> {
        self.inodes.inner(name)
    }

    /// virtiofsd's number for a handle of the guest's.
    pub(crate) fn handle(&self, name: u64) -> io::Result<u64> {
        self.handles.inner(name)
    }

    /// The slot of virtiofsd's inode `inner`.
    pub(crate) fn slot(&self, inner: u64) -> Option<u32> {
        self.known.get(&inner).copied()
    }

    /// The guest is told of virtiofsd's inode `inner`, which has this number on the host and is here.
    /// What it calls it, and the generation.
    pub(crate) fn enter(
        &mut self,
        inner: u64,
        number: u64,
        place: &Place,
    ) -> io::Result<(u64, u32)> {
        let known = self.slot(inner);
        let slot = match known {
            // It is known for as long as the session is.
            Some(ROOT) => return Ok((ROOT_ID, 0)),
            Some(slot) => {
                self.journal.set_place(slot, place);
                slot
            }
            None => self.insert(inner, number, place)?,
        };
        let count = self.journal.count(slot).saturating_add(1);
        if !self.journal.change_count(slot, count) {
            if known.is_none() {
                self.remove(slot);
            }
            return Err(Errno::ENFILE.into());
        }
        Ok((name_of(slot), self.journal.generation(slot)))
    }

    fn insert(&mut self, inner: u64, number: u64, place: &Place) -> io::Result<u32> {
        let free = self.inodes.free.pop();
        let slot = free.or_else(|| self.journal.new_inode());
        let slot = slot.ok_or(Errno::ENFILE)?;
        self.journal.insert(slot, number, place);
        self.found(slot, inner);
        Ok(slot)
    }

    /// An inode of the guest's is virtiofsd's `inner`.
    pub(crate) fn found(&mut self, slot: u32, inner: u64) {
        self.decide(slot);
        self.inodes.set(slot, Inner::Is(inner));
        self.known.insert(inner, slot);
    }

    /// An inode of the guest's was not found again.
    pub(crate) fn lost(&mut self, slot: u32) {
        self.decide(slot);
        self.inodes.set(slot, Inner::Lost);
    }

    /// Whether an inode of the guest's has still to be looked for.
    pub(crate) fn is_unfound(&self, slot: u32) -> bool {
        self.inodes.get(slot) == Inner::Unfound
    }

    /// Any inode that has still to be looked for.
    pub(crate) fn next_unfound(&self) -> Option<u32> {
        let (_, slots) = self.unfound.first_key_value()?;
        slots.first().copied()
    }

    /// Those that have this number on the host.
    pub(crate) fn unfound(&self, number: u64) -> Vec<u32> {
        self.unfound.get(&number).cloned().unwrap_or_default()
    }

    /// It is not to be looked for any more.
    fn decide(&mut self, slot: u32) {
        if !self.is_unfound(slot) {
            return;
        }
        let number = self.journal.number(slot);
        if let Some(slots) = self.unfound.get_mut(&number) {
            slots.retain(|unfound| *unfound != slot);
            if slots.is_empty() {
                self.unfound.remove(&number);
            }
        }
    }

    /// The guest has forgotten an inode so many times.
    pub(crate) fn forget(&mut self, name: u64, times: u64) {
        let is_known = |slot: &u32| *slot != ROOT && self.inodes.get(*slot) != Inner::None;
        let Some(slot) = slot_of(name).filter(is_known) else {
            return;
        };
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        let count = self.journal.count(slot).saturating_sub(times);
        // One that is not forgotten is kept for longer than needed.
        if self.journal.change_count(slot, count) && count == 0 {
            self.forgotten.push(slot);
        }
    }

    /// The guest has the answer. virtiofsd's numbers of the inodes that it no longer knows.
    pub(crate) fn end(&mut self) -> Vec<u64> {
        self.journal.end();
        let forgotten = std::mem::take(&mut self.forgotten);
        let gone = forgotten
            .into_iter()
            .filter(|slot| self.journal.count(*slot) == 0);
        let gone: Vec<_> = gone.collect();
        gone.into_iter()
            .filter_map(|slot| self.remove(slot))
            .collect()
    }

    fn remove(&mut self, slot: u32) -> Option<u64> {
        let inner = self.inodes.get(slot);
        if inner == Inner::None {
            return None;
        }
        self.decide(slot);
        self.journal.remove(slot);
        self.inodes.free(slot);
        let Inner::Is(inner) = inner else {
            return None;
        };
        self.known.remove(&inner);
        Some(inner)
    }

    /// Opens a handle for virtiofsd's `inner`: what the guest calls it.
    pub(crate) fn open(&mut self, inner: u64, open: Open) -> io::Result<u64> {
        let free = self.handles.free.pop();
        let slot = free.or_else(|| self.journal.new_handle());
        let slot = slot.ok_or(Errno::ENFILE)?;
        self.journal.set_open(slot, open);
        self.handles.set(slot, Inner::Is(inner));
        Ok(name_of(slot))
    }

    /// A handle of the guest's is virtiofsd's `inner`, or was not opened again.
    pub(crate) fn reopened(&mut self, slot: u32, inner: Option<u64>) {
        self.handles.set(slot, inner.map_or(Inner::Lost, Inner::Is));
    }

    /// A handle is no more.
    pub(crate) fn close(&mut self, name: u64) {
        let slot = slot_of(name).filter(|slot| self.handles.get(*slot) != Inner::None);
        if let Some(slot) = slot {
            self.journal.close(slot);
            self.handles.free(slot);
        }
    }

    /// Takes over the slots that a process before this one used, and frees those that nothing uses any
    /// more.
    pub(crate) fn take_over(&mut self) {
        for slot in 1..self.journal.inodes() {
            if self.journal.is_inode(slot) && self.journal.count(slot) > 0 {
                self.inodes.set(slot, Inner::Unfound);
                let number = self.journal.number(slot);
                self.unfound.entry(number).or_default().push(slot);
            } else {
                self.journal.remove(slot);
                self.inodes.free(slot);
            }
        }
        for slot in 0..self.journal.handles() {
            if self.journal.opened(slot).is_none() {
                self.handles.free(slot);
            }
        }
    }
}
