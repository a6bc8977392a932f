//! What of a directory's listing was read from the host and did not fit into an answer.
//!
//! To read it again from the host means to go back there, and where offsets are places in a list (tmpfs
//! before Linux 6.6) names that were removed meanwhile move all others forward: some would never be seen, and
//! `rm -r` would find directories that are not empty.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

use virtiofsd::filesystem::{DirEntry, DirectoryIterator};

/// Entries that are kept for one open directory; more are read again. What the kernel asks for at a time
/// is less.
const MOST_ENTRIES: usize = 1024;

/// Open directories for which something is kept.
const MOST_HANDLES: usize = 256;

struct Entry {
    ino: u64,
    offset: u64,
    kind: u32,
    name: CString,
}

/// The last part of each open directory's listing, by handle.
#[derive(Default)]
pub(crate) struct Listings(Mutex<BTreeMap<u64, Arc<[Entry]>>>);

impl Listings {
    /// The entries after `offset`, if some were read before.
    pub(crate) fn after(&self, handle: u64, offset: u64) -> Option<Listing> {
        let entries = Arc::clone(self.lock().get(&handle)?);
        let last = entries.iter().position(|entry| entry.offset == offset)?;
        let next = last.checked_add(1).filter(|next| *next < entries.len())?;
        Some(Listing { entries, next })
    }

    /// All that was just read.
    pub(crate) fn read(&self, handle: u64, mut from: impl DirectoryIterator) -> Listing {
        let mut entries = Vec::new();
        while let Some(entry) = from.next() {
            entries.push(Entry {
                ino: entry.ino,
                offset: entry.offset,
                kind: entry.type_,
                name: entry.name.to_owned(),
            });
        }
        let entries: Arc<[Entry]> = entries.into();
        let mut all = self.lock();
        if all.len() >= MOST_HANDLES && !all.contains_key(&handle) {
            all.clear();
        }
        if entries.len() <= MOST_ENTRIES {
            all.insert(handle, Arc::clone(&entries));
        } else {
            all.remove(&handle);
        }
        Listing { entries, next: 0 }
    }

    /// The directory is closed.
    pub(crate) fn forget(&self, handle: u64) {
        self.lock().remove(&handle);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<[Entry]>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries of a directory, from some place on.
pub(crate) struct Listing {
    entries: Arc<[Entry]>,
    next: usize,
}

impl DirectoryIterator for Listing {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        let entry = self.entries.get(self.next)?;
        self.next = self.next.saturating_add(1);
        Some(DirEntry {
            ino: entry.ino,
            offset: entry.offset,
            type_: entry.kind,
            name: &entry.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries with these offsets.
    fn entries(offsets: std::ops::Range<u64>) -> Listing {
        let entry = |offset| Entry {
            ino: 1,
            offset,
            kind: 0,
            name: c"name".to_owned(),
        };
        Listing {
            entries: offsets.map(entry).collect(),
            next: 0,
        }
    }

    fn offsets(mut listing: impl DirectoryIterator) -> Vec<u64> {
        std::iter::from_fn(|| Some(listing.next()?.offset)).collect()
    }

    #[test]
    fn what_did_not_fit_comes_next() {
        let listings = Listings::default();
        assert_eq!(offsets(listings.read(7, entries(10..14))), [10, 11, 12, 13]);
        assert_eq!(offsets(listings.after(7, 11).unwrap()), [12, 13]);
        // The rest is the host's to say.
        assert!(listings.after(7, 13).is_none());
        assert!(listings.after(7, 9).is_none());
        assert!(listings.after(8, 11).is_none());
        listings.forget(7);
        assert!(listings.after(7, 11).is_none());
    }

    #[test]
    fn little_is_kept() {
        let listings = Listings::default();
        let many = u64::try_from(MOST_ENTRIES).unwrap() + 1;
        assert_eq!(
            offsets(listings.read(1, entries(0..many))).len(),
            MOST_ENTRIES + 1
        );
        assert!(listings.after(1, 0).is_none());
        for handle in 0..1000 {
            listings.read(handle, entries(0..2));
            assert!(listings.lock().len() <= MOST_HANDLES);
        }
    }
}
