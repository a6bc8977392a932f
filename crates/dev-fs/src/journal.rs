//! What a device that takes another's place has to know, in memory that outlives the process: which
//! inodes and handles the guest has, and how far the request has come that is being carried out.
//!
//! Requests are carried out one after the other, so at most one is unanswered when the process is
//! killed. The used ring's index in guest memory says whether the guest has seen its answer: if so,
//! what it changed here counts. If not, that is [taken back](Journal::settle), and the request is
//! carried out again, by a process that knows from [`Before`] how things were when it was first begun.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use device::serve;
use wire::fs::JOURNAL_SIZE;

/// Inodes that the guest may know at a time, as many as a process may have descriptors on Linux by
/// default (`fs.nr_open`).
const INODES: u32 = 1 << 20;
/// Handles that it may have open, likewise.
const HANDLES: u32 = 1 << 20;
/// Inodes whose count one request may change: a listing of a mebibyte with attributes has fewer names.
pub(crate) const CHANGES: u32 = 8192;
/// The device's queues: one of high priority, one for requests.
pub(crate) const QUEUES: usize = 2;

/// Offsets. First of all the layout's version, 0 in a file that was never used.
const VERSION: usize = 0;
/// Slots that were ever used.
const INODES_USED: usize = 4;
const HANDLES_USED: usize = 8;
/// How many requests of each queue were answered, modulo 2^32: the used index, and more.
const ANSWERED: [usize; QUEUES] = [12, 16];
/// The queue, and one, whose next request is being carried out; 0 for none.
const AT_WORK: usize = 20;
/// What the request changed: how many counts, and the slot, and one, of the handle that it opened.
const CHANGED: usize = 24;
const OPENED: usize = 28;
/// The request's `unique`.
const UNIQUE: usize = 32;
/// How things were before it: whether that is known, and [`Before`].
const IS_BEFORE: usize = 40;
const BEFORE: usize = 44;
/// The slots, and one, whose names it exchanges, and both places.
const MOVED: [usize; 2] = [72, 76];
const PLACES: [usize; 2] = [1024, 1536];
/// The slot, and one, of an inode whose place is being changed, and its new place.
const MOVING: usize = 80;
const NEW_PLACE: usize = 2048;
/// How many inodes the guest was told of, modulo 2^32.
const TOLD: usize = 84;
/// The session's first request, and its length.
const INIT: usize = 512;
pub(crate) const INIT_SIZE: usize = 128;
/// Counts as they were, oldest first: a slot and a number each.
const COUNTS: usize = 4096;
const RECORDS: usize = COUNTS + CHANGES as usize * 8;
const RECORD_SIZE: usize = 288;
const OPEN: usize = RECORDS + INODES as usize * RECORD_SIZE;
const OPEN_SIZE: usize = 16;
const SIZE: usize = OPEN + HANDLES as usize * OPEN_SIZE;

const _: () = {
    assert!(SIZE as u64 == JOURNAL_SIZE);
    assert!(NEW_PLACE + RECORD_SIZE <= COUNTS);
    assert!(NAME + LONGEST_NAME <= GENERATION && GENERATION + 4 <= RECORD_SIZE);
};

/// The layout above.
const CURRENT: u32 = 1;

/// Within a record. An unused one has no parent, one that has lost its name an empty one.
const PARENT: usize = 0;
const COUNT: usize = 4;
const NUMBER: usize = 8;
const LENGTH: usize = 16;
const NAME: usize = 20;
/// NAME_MAX (`linux/limits.h`).
const LONGEST_NAME: usize = 255;
const GENERATION: usize = 276;

/// Within an open handle. An unused one has no inode.
const INODE: usize = 0;
const FLAGS: usize = 4;
const IS_DIRECTORY: usize = 8;

/// Where a file is: its name in a directory's slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) parent: u32,
    pub(crate) name: CString,
}

impl Place {
    /// The place of a name that a request gave.
    pub(crate) fn new(parent: u32, name: &CStr) -> Self {
        Self {
            parent,
            name: name.to_owned(),
        }
    }
}

/// How a file that the guest has open was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    /// Its inode's slot.
    pub(crate) inode: u32,
    /// As open(2) has them.
    pub(crate) flags: u32,
    pub(crate) is_directory: bool,
}

/// How things were before a request that cannot simply be carried out twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Before {
    /// The inode numbers that its names had, 0 for none.
    pub(crate) source: u64,
    pub(crate) target: u64,
    /// The file's size in bytes.
    pub(crate) size: u64,
}

impl Before {
    /// Of a request that concerns one name.
    pub(crate) fn one(source: u64) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }
}

/// The journal. Slots that are out of range name nothing.
#[derive(Debug)]
pub(crate) struct Journal {
    memory: serve::Journal,
    /// The request that is being carried out was begun by a process before this one.
    again: bool,
    /// Something is written of a request that the next one must not find.
    stained: Cell<bool>,
}

impl Journal {
    /// Opens `file`, which another process may have written.
    pub(crate) fn open(file: OwnedFd) -> io::Result<Self> {
        let memory = serve::Journal::map(file, SIZE)?;
        if ![0, CURRENT].contains(&memory.load(VERSION)) {
            return Err(io::Error::other("another version has written the journal"));
        }
        memory.store(VERSION, CURRENT);
        let journal = Self {
            memory,
            again: false,
            stained: Cell::new(true),
        };
        journal.end_move();
        Ok(journal)
    }

    fn store(&self, at: usize, number: u32) {
        step();
        self.memory.store(at, number);
    }

    fn write(&self, at: usize, numbers: &[u32]) {
        step();
        self.memory.write(at, numbers);
    }

    fn fill(&self, at: usize, bytes: &[u8]) {
        step();
        self.memory.part(at, bytes.len()).fill(bytes);
    }

    fn answered(&self, queue: usize) -> u32 {
        let at = ANSWERED.get(queue);
        at.map_or(0, |at| self.memory.load(*at))
    }

    fn at_work(&self) -> Option<usize> {
        let queue = self.memory.load(AT_WORK).checked_sub(1)?;
        usize::try_from(queue).ok().filter(|queue| *queue < QUEUES)
    }

    /// Whether a queue has been used, so that its used index is needed to go on.
    pub(crate) fn was_used(&self, queue: usize) -> bool {
        self.answered(queue) > 0 || self.at_work() == Some(queue)
    }

    /// Whether the driver's used indices, of queues that are set up, are those of the last request:
    /// if not, another driver has taken over.
    pub(crate) fn follows(&self, used: [Option<u16>; QUEUES]) -> bool {
        let at_work = self.at_work();
        used.into_iter().enumerate().all(|(queue, used)| {
            let answered = self.answered(queue);
            let next = answered.wrapping_add(1);
            used.is_none_or(|used| {
                same(used, answered) || (at_work == Some(queue) && same(used, next))
            })
        })
    }

    /// Decides about the request that another process has left.
    pub(crate) fn settle(&mut self, used: [Option<u16>; QUEUES]) {
        let Some(queue) = self.at_work() else {
            return;
        };
        let next = self.answered(queue).wrapping_add(1);
        let index = used.get(queue).copied().flatten();
        if index.is_some_and(|index| same(index, next)) {
            self.end();
        } else {
            self.take_back();
        }
    }

    /// Undoes what an unanswered request has changed.
    fn take_back(&mut self) {
        let count = self.memory.load(CHANGED).min(CHANGES);
        for change in (0..count).rev() {
            let [slot, count] = self.memory.read(count_at(change));
            self.set_count(slot, count);
        }
        if let Some(slot) = self.memory.load(OPENED).checked_sub(1) {
            self.close(slot);
        }
        self.store(CHANGED, 0);
        self.store(OPENED, 0);
    }

    /// Begins a queue's next request.
    pub(crate) fn begin(&mut self, queue: usize, unique: u64) {
        self.again = self.at_work() == Some(queue)
            && self.memory.read(UNIQUE) == halves(unique)
            && self.memory.load(IS_BEFORE) == 1;
        if !self.again && self.stained.replace(false) {
            self.store(AT_WORK, 0);
            self.store(IS_BEFORE, 0);
            self.store(MOVED[0], 0);
            self.store(MOVED[1], 0);
        }
        self.write(UNIQUE, &halves(unique));
        let queue = u32::try_from(queue).unwrap_or(0);
        self.store(AT_WORK, queue.saturating_add(1));
    }

    /// The guest has the answer to the request that was begun.
    pub(crate) fn end(&mut self) {
        // Each of these may be the last, and is right to do again.
        if self.stained.get() {
            self.store(CHANGED, 0);
            self.store(OPENED, 0);
        }
        let Some(queue) = self.at_work() else {
            return;
        };
        if let Some(at) = ANSWERED.get(queue) {
            let next = self.answered(queue).wrapping_add(1);
            self.store(*at, next);
        }
        self.store(AT_WORK, 0);
        self.again = false;
    }

    /// Forgets everything but how many requests were answered.
    pub(crate) fn clear(&mut self) {
        self.store(CHANGED, 0);
        self.store(OPENED, 0);
        self.store(INIT, 0);
        for slot in 0..self.inodes() {
            self.remove(slot);
        }
        for slot in 0..self.handles() {
            self.close(slot);
        }
        self.store(INODES_USED, 0);
        self.store(HANDLES_USED, 0);
    }

    /// Another driver has taken over, which has used its queues up to here.
    pub(crate) fn restart(&mut self, used: [Option<u16>; QUEUES]) {
        self.clear();
        self.store(AT_WORK, 0);
        for (at, used) in ANSWERED.into_iter().zip(used) {
            self.store(at, used.unwrap_or(0).into());
        }
    }

    /// The session's first request, if there is a session.
    pub(crate) fn init(&self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.memory.load(INIT)).ok()?;
        let mut bytes = vec![0; length.min(INIT_SIZE)];
        self.memory.part(INIT + 4, bytes.len()).peek(&mut bytes);
        (!bytes.is_empty()).then_some(bytes)
    }

    /// A session begins with this request.
    pub(crate) fn set_init(&self, bytes: &[u8]) {
        let bytes = bytes.get(..INIT_SIZE).unwrap_or(bytes);
        self.fill(INIT + 4, bytes);
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        self.store(INIT, length);
    }

    /// How things were when the request was first begun, if a process before this one came so far.
    pub(crate) fn before(&self) -> Option<Before> {
        let [a, b, c, d, e, f] = self.memory.read(BEFORE);
        self.again.then_some(Before {
            source: whole([a, b]),
            target: whole([c, d]),
            size: whole([e, f]),
        })
    }

    /// This is how things are, before anything is changed.
    pub(crate) fn set_before(&self, before: Before) {
        self.stained.set(true);
        let [a, b] = halves(before.source);
        let [c, d] = halves(before.target);
        let [e, f] = halves(before.size);
        self.write(BEFORE, &[a, b, c, d, e, f]);
        self.store(IS_BEFORE, 1);
    }

    /// These two change places, as far as there are two. To be called before
    /// [`Journal::set_before`].
    pub(crate) fn set_moved(&self, slots: [Option<u32>; 2], places: [&Place; 2]) {
        self.stained.set(true);
        for (at, place) in PLACES.into_iter().zip(places) {
            self.set_place_at(at, place);
        }
        for (at, slot) in MOVED.into_iter().zip(slots) {
            let slot = slot.map_or(0, |slot| slot.saturating_add(1));
            self.store(at, slot);
        }
    }

    /// What [`Journal::set_moved`] was told.
    pub(crate) fn moved(&self) -> [Option<u32>; 2] {
        MOVED.map(|at| self.memory.load(at).checked_sub(1))
    }

    /// Where an inode may be: where it was, or where another process was moving it when it was killed.
    pub(crate) fn places(&self, slot: u32) -> impl Iterator<Item = Place> {
        [self.place(slot), self.other_place(slot)]
            .into_iter()
            .flatten()
    }

    fn other_place(&self, slot: u32) -> Option<Place> {
        let [source, target] = self.moved();
        if source == Some(slot) {
            self.place_at(PLACES[1])
        } else if target == Some(slot) {
            self.place_at(PLACES[0])
        } else {
            None
        }
    }

    /// How many slots of inodes were ever used.
    pub(crate) fn inodes(&self) -> u32 {
        self.memory.load(INODES_USED).min(INODES)
    }

    /// How many slots of handles were ever used.
    pub(crate) fn handles(&self) -> u32 {
        self.memory.load(HANDLES_USED).min(HANDLES)
    }

    /// A slot that was never used; none if there are no more.
    pub(crate) fn new_inode(&self) -> Option<u32> {
        self.new_slot(INODES_USED, INODES)
    }

    /// As [`Journal::new_inode`], for a handle.
    pub(crate) fn new_handle(&self) -> Option<u32> {
        self.new_slot(HANDLES_USED, HANDLES)
    }

    fn new_slot(&self, used: usize, most: u32) -> Option<u32> {
        let slot = self.memory.load(used);
        if slot >= most {
            return None;
        }
        self.store(used, slot.saturating_add(1));
        Some(slot)
    }

    /// Writes down an inode that the guest does not know yet.
    pub(crate) fn insert(&self, slot: u32, number: u64, place: &Place) {
        let Some(at) = record_at(slot) else {
            return;
        };
        self.write(field(at, COUNT), &[0]);
        self.write(field(at, NUMBER), &halves(number));
        let told = self.memory.load(TOLD).wrapping_add(1);
        self.store(TOLD, told);
        self.store(field(at, GENERATION), told);
        self.set_place_at(at, place);
    }

    /// Makes an inode's slot free.
    pub(crate) fn remove(&self, slot: u32) {
        if let Some(at) = record_at(slot) {
            self.store(field(at, PARENT), 0);
        }
    }

    /// Whether there is such an inode.
    pub(crate) fn is_inode(&self, slot: u32) -> bool {
        slot < self.inodes()
            && record_at(slot).is_some_and(|at| self.memory.load(field(at, PARENT)) > 0)
    }

    /// An inode's number on the host.
    pub(crate) fn number(&self, slot: u32) -> u64 {
        let at = record_at(slot);
        at.map_or(0, |at| whole(self.memory.read(field(at, NUMBER))))
    }

    /// What tells an inode from others that had its slot before, for 2^32 of them.
    pub(crate) fn generation(&self, slot: u32) -> u32 {
        record_at(slot).map_or(0, |at| self.memory.load(field(at, GENERATION)))
    }

    /// Where an inode is, if that is known.
    pub(crate) fn place(&self, slot: u32) -> Option<Place> {
        self.place_at(record_at(slot)?)
    }

    /// Where an inode is from now on.
    pub(crate) fn set_place(&self, slot: u32, place: &Place) {
        if self.place(slot).as_ref() != Some(place) {
            self.set_place_at(NEW_PLACE, place);
            self.store(MOVING, slot.saturating_add(1));
            self.end_move();
        }
    }

    /// Does what [`Journal::set_place`] has begun, here or in another process.
    fn end_move(&self) {
        let at = self.memory.load(MOVING).checked_sub(1).and_then(record_at);
        if let (Some(at), Some(place)) = (at, self.place_at(NEW_PLACE)) {
            self.set_place_at(at, &place);
        }
        self.store(MOVING, 0);
    }

    /// An inode has no name that is known any more.
    pub(crate) fn clear_name(&self, slot: u32) {
        if let Some(at) = record_at(slot) {
            self.store(field(at, LENGTH), 0);
        }
    }

    fn place_at(&self, at: usize) -> Option<Place> {
        let parent = self.memory.load(field(at, PARENT)).checked_sub(1)?;
        let length = usize::try_from(self.memory.load(field(at, LENGTH))).ok()?;
        let mut name = vec![0; length.min(LONGEST_NAME)];
        self.memory
            .part(field(at, NAME), name.len())
            .peek(&mut name);
        let name = CString::new(name).ok().filter(|name| !name.is_empty())?;
        Some(Place { parent, name })
    }

    /// A process that is killed in between leaves it without a name.
    fn set_place_at(&self, at: usize, place: &Place) {
        let name = place.name.to_bytes();
        // No file has a longer one, whatever a request says.
        let name = if name.len() > LONGEST_NAME { &[] } else { name };
        let length = u32::try_from(name.len()).unwrap_or(0);
        self.store(field(at, LENGTH), 0);
        self.fill(field(at, NAME), name);
        self.memory
            .store(field(at, PARENT), place.parent.saturating_add(1));
        self.store(field(at, LENGTH), length);
    }

    /// How often the guest was told of an inode and has not forgotten it.
    pub(crate) fn count(&self, slot: u32) -> u32 {
        let at = record_at(slot);
        at.map_or(0, |at| self.memory.load(field(at, COUNT)))
    }

    fn set_count(&self, slot: u32, count: u32) {
        if let Some(at) = record_at(slot) {
            self.store(field(at, COUNT), count);
        }
    }

    /// Changes a count, as part of the request; false if it has changed too many.
    #[must_use]
    pub(crate) fn change_count(&self, slot: u32, count: u32) -> bool {
        let changed = self.memory.load(CHANGED);
        if changed >= CHANGES {
            return false;
        }
        self.stained.set(true);
        let was = [slot, self.count(slot)];
        self.write(count_at(changed), &was);
        self.store(CHANGED, changed.saturating_add(1));
        self.set_count(slot, count);
        true
    }

    /// Writes down a handle, as part of the request.
    pub(crate) fn set_open(&self, slot: u32, open: Open) {
        let Some(at) = open_at(slot) else {
            return;
        };
        self.stained.set(true);
        self.store(OPENED, slot.saturating_add(1));
        let more = [open.flags, open.is_directory.into()];
        self.write(field(at, FLAGS), &more);
        self.store(field(at, INODE), open.inode.saturating_add(1));
    }

    /// A handle, if it is open.
    pub(crate) fn opened(&self, slot: u32) -> Option<Open> {
        let at = open_at(slot).filter(|_| slot < self.handles())?;
        Some(Open {
            inode: self.memory.load(field(at, INODE)).checked_sub(1)?,
            flags: self.memory.load(field(at, FLAGS)),
            is_directory: self.memory.load(field(at, IS_DIRECTORY)) != 0,
        })
    }

    /// Makes a handle's slot free.
    pub(crate) fn close(&self, slot: u32) {
        if let Some(at) = open_at(slot) {
            self.store(field(at, INODE), 0);
        }
    }
}

/// Whether a used index is the count's lower half.
fn same(index: u16, count: u32) -> bool {
    u32::from(index) == count & 0xffff
}

fn halves(number: u64) -> [u32; 2] {
    let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
    [half(number), half(number >> 32)]
}

fn whole([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | (u64::from(high) << 32)
}

fn count_at(change: u32) -> usize {
    at(COUNTS, change, 8)
}

fn record_at(slot: u32) -> Option<usize> {
    (slot < INODES).then(|| at(RECORDS, slot, RECORD_SIZE))
}

fn open_at(slot: u32) -> Option<usize> {
    (slot < HANDLES).then(|| at(OPEN, slot, OPEN_SIZE))
}

/// Where a field of the record at `at` is.
const fn field(at: usize, offset: usize) -> usize {
    at.saturating_add(offset)
}

fn at(start: usize, index: u32, size: usize) -> usize {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    start.saturating_add(index.saturating_mul(size))
}

/// Something is about to be written: where tests let a process die.
#[cfg(not(test))]
const fn step() {}

#[cfg(test)]
use tests::step;

#[cfg(test)]
pub(crate) mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    thread_local! {
        /// What may still be written.
        static STEPS: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(crate) fn step() {
        let left = STEPS.get();
        assert_ne!(left, Some(0), "killed");
        STEPS.set(left.map(|left| left - 1));
    }

    /// Lets `work` write so often, and end in the middle if that is too little.
    pub(crate) fn killed_after<T>(steps: usize, work: impl FnOnce() -> T) -> Option<T> {
        STEPS.set(Some(steps));
        let result = catch_unwind(AssertUnwindSafe(work));
        STEPS.set(None);
        result.ok()
    }

    /// An empty journal's file.
    pub(crate) fn file() -> std::fs::File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(JOURNAL_SIZE).unwrap();
        file
    }

    fn place(name: &CStr) -> Place {
        Place::new(0, name)
    }

    #[test]
    fn a_place_is_the_old_or_the_new_one_whenever_the_process_is_killed() {
        for steps in 0.. {
            let file = file();
            let journal = Journal::open(file.try_clone().unwrap().into()).unwrap();
            let slot = journal.new_inode().unwrap();
            journal.insert(slot, 7, &place(c"old"));
            let moved = killed_after(steps, || journal.set_place(slot, &place(c"longer")));
            let journal = Journal::open(file.into()).unwrap();
            let now = journal.place(slot).unwrap();
            assert!([place(c"old"), place(c"longer")].contains(&now));
            if moved.is_some() {
                assert_eq!(now, place(c"longer"));
                break;
            }
        }
    }

    #[test]
    fn what_is_out_of_range_is_not_there() {
        let journal = Journal::open(file().into()).unwrap();
        for slot in [0, INODES - 1, INODES, u32::MAX] {
            assert!(!journal.is_inode(slot));
            assert!(journal.place(slot).is_none());
            assert!(journal.opened(slot).is_none());
            assert_eq!(journal.count(slot), 0);
            journal.remove(slot);
            journal.clear_name(slot);
        }
        let name = CString::new(vec![b'x'; 256]).unwrap();
        let slot = journal.new_inode().unwrap();
        journal.insert(slot, 1, &Place { parent: 0, name });
        assert!(journal.is_inode(slot));
        assert!(journal.place(slot).is_none());
    }

    #[test]
    fn a_driver_is_known_by_its_used_indices() {
        let mut journal = Journal::open(file().into()).unwrap();
        for unique in 0..0x1_0002 {
            journal.begin(1, unique);
            journal.end();
        }
        assert!(journal.follows([Some(0), Some(2)]));
        assert!(journal.follows([None, None]));
        assert!(!journal.follows([Some(0), Some(3)]));
        assert!(!journal.follows([Some(1), Some(2)]));
        journal.begin(1, 0);
        assert!(journal.follows([Some(0), Some(3)]));
        assert!(!journal.follows([Some(0), Some(4)]));
        journal.restart([Some(7), None]);
        assert!(journal.follows([Some(7), Some(0)]));
    }
}
