//! Finding everything again that the guest knows from another process.

use nix::libc;
use virtiofsd::filesystem::FileSystem;

use crate::journal::{Open, Place};
use crate::kept::{Kept, nobody};
use crate::table::name_of;

/// What a file is opened with again: not what made or emptied it.
const ONCE: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC;

/// Inodes that are looked for before requests have their turn.
const AT_A_TIME: usize = 32;

impl<F: FileSystem<Inode = u64, Handle = u64>> Kept<F> {
    /// Goes on with a session of another process. Files that are open, and those that it was moving or
    /// removing, are found again at once; others when the guest names them, or [when there is
    /// time](Kept::find_some).
    pub(crate) fn restore(&self) {
        self.table().take_over();
        let moved = self.table().journal.moved();
        for slot in moved.into_iter().flatten() {
            self.find(slot);
        }
        let handles = self.table().journal.handles();
        for slot in 0..handles {
            let open = self.table().journal.opened(slot);
            if let Some(open) = open {
                let inner = self.reopen(open);
                self.table().reopened(slot, inner);
            }
        }
        self.table().resumed();
    }

    /// Finds some of the inodes that nobody has named yet; whether there may be more.
    pub(crate) fn find_some(&self) -> bool {
        for _ in 0..AT_A_TIME {
            let next = self.table().next_unfound();
            let Some(slot) = next else {
                return false;
            };
            self.find(slot);
        }
        true
    }

    /// The slot of virtiofsd's inode `inner`, which has this number on the host, if the guest knows it.
    pub(crate) fn slot(&self, inner: u64, number: u64) -> Option<u32> {
        let known = self.table().slot(inner);
        if known.is_some() {
            return known;
        }
        let unfound = self.table().unfound(number);
        unfound.into_iter().for_each(|slot| self.find(slot));
        self.table().slot(inner)
    }

    /// Finds an inode, and before it the directories that it is in.
    pub(crate) fn find(&self, slot: u32) {
        let mut chain = vec![slot];
        while let Some(&slot) = chain.last() {
            let parents = self.unfound_parents(slot);
            // Directories that are in each other were written down by nobody who works.
            let next = parents.into_iter().find(|parent| !chain.contains(parent));
            if let Some(parent) = next {
                chain.push(parent);
                continue;
            }
            self.find_in_parent(slot);
            chain.pop();
        }
    }

    /// The directories, not found yet, that an inode not found yet may be in.
    fn unfound_parents(&self, slot: u32) -> Vec<u32> {
        let table = self.table();
        if !table.is_unfound(slot) {
            return Vec::new();
        }
        let parents = table.journal.places(slot).map(|place| place.parent);
        parents.filter(|parent| table.is_unfound(*parent)).collect()
    }

    fn find_in_parent(&self, slot: u32) {
        let (places, expected) = {
            let table = self.table();
            if !table.is_unfound(slot) {
                return;
            }
            let places: Vec<_> = table.journal.places(slot).collect();
            (places, table.journal.number(slot))
        };
        for place in places {
            if let Some(inner) = self.find_at(&place, expected) {
                let mut table = self.table();
                table.journal.set_place(slot, &place);
                table.found(slot, inner);
                return;
            }
        }
        self.table().lost(slot);
    }

    /// virtiofsd's number for what is in a place, if it is the file that was there and nobody else has
    /// found it.
    fn find_at(&self, place: &Place, expected: u64) -> Option<u64> {
        let parent = self.table().inode(name_of(place.parent)).ok()?;
        let entry = self.inner.lookup(nobody(), parent, &place.name).ok()?;
        let taken = self.table().slot(entry.inode).is_some();
        if entry.inode == 0 {
            return None;
        }
        if entry.attr.ino != expected || taken {
            self.inner.forget(nobody(), entry.inode, 1);
            return None;
        }
        Some(entry.inode)
    }

    fn reopen(&self, open: Open) -> Option<u64> {
        let inode = self.inode(name_of(open.inode)).ok()?;
        let flags = (open.flags.cast_signed() & !ONCE).cast_unsigned();
        let opened = if open.is_directory {
            self.inner.opendir(nobody(), inode, flags)
        } else {
            self.inner.open(nobody(), inode, false, flags)
        };
        opened.ok()?.0
    }
}
