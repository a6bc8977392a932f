//! What a device that takes another's place has to know, and when what was written counts.
//!
//! The device works in steps: it takes one packet of the guest's, gives it some, or writes to a
//! stream what waited for it. A step changes one connection at most, and has an effect on a stream,
//! on a queue, or on both. It is written down so that wherever the process is killed, its successor
//! can tell which of both have happened:
//!
//! - The kernel notes how many bytes a call moved before the call returns ([`Note`]).
//! - The used ring's index in guest memory says whether the guest has seen the step.
//! - What the step changes is written beside what it changes, and [`State`] says what it waits for.
//!
//! A packet that was taken but not returned is taken again: what of it is in the stream already is
//! left out. What was received for the guest but not given to it is in the guest's own buffers, whose
//! turn it is.

use std::io;
use std::os::fd::OwnedFd;

use device::serve::{self, Buffers, Note};
use wire::vsock::JOURNAL_SIZE;

use crate::backend::Connection;
use crate::request::Header;
use crate::table::MAX_CONNECTIONS;

/// Buffer for what the guest sends, for connections in the first [`FEW`] slots: 256 KiB, four of
/// Linux' largest packets.
const LARGE_BUFFER: usize = 256 * 1024;

/// As [`LARGE_BUFFER`], in all other slots. The device buffers at most 256 * 256 KiB + 3840 * 16 KiB
/// = 124 MiB, whatever the guest does.
const SMALL_BUFFER: usize = 16 * 1024;

/// See [`LARGE_BUFFER`].
const FEW: usize = 256;

/// Resets that may wait for the guest's receive buffers before its packets are left unread.
pub(crate) const MAX_RESETS: u32 = 256;

/// What is kept of a connection; all zero for none.
pub(crate) type Record = [u32; 16];

/// What a step does to a connection: its slot, and the record that it will have.
pub(crate) type Change = (u16, Record);

/// Offsets. First of all the layout's version, 0 in a file that was never used.
const VERSION: usize = 0;
const COUNTERS: usize = 16;
const STATE: usize = 64;
/// The used ring's index before the step, and how many chains it gives.
const INDEX: usize = 68;
const CHAINS: usize = 72;
/// The slot, and one, of the connection to whose stream something is sent, and of the one from
/// whose stream something is received.
const SENDER: usize = 76;
const RECEIVER: usize = 80;
/// The change, and the counters after it.
const AFTER: usize = 128;
const SENT: usize = 256;
const RECEIVED: usize = 320;
const RESETS: usize = 512;
const RESET_SIZE: usize = 48;
const RECORDS: usize = 16384;
const RECORD_SIZE: usize = size_of::<Record>();
const BACKLOGS: usize = RECORDS + MAX_CONNECTIONS * RECORD_SIZE;
const SMALL_BACKLOGS: usize = BACKLOGS + FEW * LARGE_BUFFER;
const SIZE: usize = SMALL_BACKLOGS + (MAX_CONNECTIONS - FEW) * SMALL_BUFFER;

const _: () = {
    assert!(SIZE as u64 == JOURNAL_SIZE);
    assert!(AFTER + (AFTER_WORDS * 4) <= SENT);
    assert!(RESETS + MAX_RESETS as usize * RESET_SIZE <= RECORDS);
};

/// The slot and one, the record, the counters.
const AFTER_WORDS: usize = 1 + RECORD_SIZE / 4 + Counters::WORDS;

/// The layout above.
const CURRENT: u32 = 1;

/// What the last step waits for.
mod state {
    /// There is none.
    pub(super) const NONE: u32 = 0;
    /// A packet is being taken.
    pub(super) const TAKING: u32 = 1;
    /// It has been, and counts if the guest has it back.
    pub(super) const TAKEN: u32 = 2;
    /// Packets are about to be given, and count if the guest has them.
    pub(super) const GIVEN: u32 = 3;
    /// A backlog is written to its stream.
    pub(super) const FLUSHING: u32 = 4;
    /// The change counts.
    pub(super) const DECIDED: u32 = 5;
}

/// What is kept besides connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The number of the last stream that the supervisor wanted connected.
    pub(crate) connects: u32,
    /// Streams made for the guest's connections.
    pub(crate) accepts: u32,
    /// Resets that were given to the guest, ever, and those that are to be.
    resets_given: u32,
    resets_due: u32,
    /// The transmit queue's used index.
    transmitted: u32,
    /// The packet that is next was begun by another process: the slot, and one, of its connection,
    /// and how many bytes of it are in the stream.
    begun_slot: u32,
    begun: u32,
}

impl Counters {
    const WORDS: usize = 7;

    const fn to_words(self) -> [u32; Self::WORDS] {
        [
            self.connects,
            self.accepts,
            self.resets_given,
            self.resets_due,
            self.transmitted,
            self.begun_slot,
            self.begun,
        ]
    }

    const fn from_words(words: [u32; Self::WORDS]) -> Self {
        let [
            connects,
            accepts,
            resets_given,
            resets_due,
            transmitted,
            begun_slot,
            begun,
        ] = words;
        Self {
            connects,
            accepts,
            resets_given,
            resets_due,
            transmitted,
            begun_slot,
            begun,
        }
    }
}

/// What the last process left to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// The driver is the one that the process before served.
    pub(crate) same_driver: bool,
    /// Bytes of a connection's stream that are in the guest's next buffers already.
    pub(crate) received: Option<(u16, usize)>,
}

/// The journal.
#[derive(Debug)]
pub(crate) struct Journal {
    memory: serve::Journal,
    /// Nobody wrote it before.
    is_fresh: bool,
    /// What the step that is being made changes of them counts with its change.
    pub(crate) counters: Counters,
}

impl Journal {
    /// Opens `file`, which another process may have written.
    pub(crate) fn open(file: OwnedFd) -> io::Result<Self> {
        let memory = serve::Journal::map(file, SIZE)?;
        let version = memory.load(VERSION);
        if ![0, CURRENT].contains(&version) {
            return Err(io::Error::other("another version has written the journal"));
        }
        memory.store(VERSION, CURRENT);
        let mut journal = Self {
            counters: Counters::from_words(memory.read(COUNTERS)),
            memory,
            is_fresh: version == 0,
        };
        journal.bound_resets();
        Ok(journal)
    }

    /// More than [`MAX_RESETS`] were never written by a device that works, and would keep the guest's
    /// packets from being taken until all were given.
    fn bound_resets(&mut self) {
        if self.resets() > MAX_RESETS {
            self.clear_resets();
        }
    }

    /// Whether nobody wrote it before this process.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Begins to take a packet, with the transmit queue's used index.
    pub(crate) fn taking(&mut self, used: u16) {
        self.memory.store(SENDER, 0);
        self.memory.store(INDEX, used.into());
        self.memory.store(STATE, state::TAKING);
        self.counters.transmitted = used.wrapping_add(1).into();
    }

    /// The packet was taken. What follows is that the guest gets it back, and [`Journal::apply`].
    pub(crate) fn taken(&mut self, change: Option<Change>) {
        (self.counters.begun_slot, self.counters.begun) = (0, 0);
        self.write_after(change);
        self.memory.store(STATE, state::TAKEN);
    }

    /// So many chains are about to be given, with the receive queue's used index. What follows is
    /// that, and [`Journal::apply`].
    pub(crate) fn given(&self, used: u16, chains: usize, change: Option<Change>) {
        self.write_after(change);
        self.memory.store(INDEX, used.into());
        let chains = u32::try_from(chains).unwrap_or(0);
        self.memory.store(CHAINS, chains);
        self.memory.store(STATE, state::GIVEN);
    }

    /// A change that waits for nothing.
    pub(crate) fn decide(&self, change: Option<Change>) {
        self.write_after(change);
        self.memory.store(STATE, state::DECIDED);
        self.apply(change);
    }

    /// Begins to write a backlog to its stream; ends with [`Journal::decide`].
    pub(crate) fn flushing(&self) {
        self.memory.store(SENDER, 0);
        self.memory.store(STATE, state::FLUSHING);
    }

    /// The step is made.
    pub(crate) fn apply(&self, change: Option<Change>) {
        if let Some((slot, record)) = change {
            self.memory.write(record_at(slot), &record);
        }
        self.memory.write(COUNTERS, &self.counters.to_words());
        if self.memory.load(STATE) == state::GIVEN {
            self.memory.store(RECEIVER, 0);
        }
        self.memory.store(STATE, state::NONE);
    }

    fn write_after(&self, change: Option<Change>) {
        let (slot, record) = match change {
            Some((slot, record)) => (u32::from(slot).saturating_add(1), record),
            None => (0, Record::default()),
        };
        let mut words = [0; AFTER_WORDS];
        let counters = self.counters.to_words();
        let all = [slot].into_iter().chain(record).chain(counters);
        for (word, value) in words.iter_mut().zip(all) {
            *word = value;
        }
        self.memory.write(AFTER, &words);
    }

    /// Where the kernel notes what is sent to a connection's stream.
    pub(crate) fn sender(&self, slot: u16) -> Option<Note<'_>> {
        self.noted(SENDER, SENT, slot)
    }

    /// Where the kernel notes what is received from a connection's stream.
    pub(crate) fn receiver(&self, slot: u16) -> Option<Note<'_>> {
        self.noted(RECEIVER, RECEIVED, slot)
    }

    fn noted(&self, who: usize, note: usize, slot: u16) -> Option<Note<'_>> {
        let note = self.memory.note(note)?;
        self.memory.store(who, 0);
        note.clear();
        self.memory.store(who, u32::from(slot).saturating_add(1));
        Some(note)
    }

    fn noted_by(&self, who: usize, note: usize) -> Option<(u16, usize)> {
        let slot = self.memory.load(who).checked_sub(1)?;
        let count = self.memory.note(note)?.count();
        (count > 0).then_some((u16::try_from(slot).ok()?, count))
    }

    /// What a process before this one has begun of the packet that is taken next, if that is of
    /// this connection.
    pub(crate) fn begun(&self, slot: u16) -> usize {
        if self.counters.begun_slot == u32::from(slot).saturating_add(1) {
            usize::try_from(self.counters.begun).unwrap_or(0)
        } else {
            0
        }
    }

    /// Decides about the step that the process before this one did not end, with the used indices
    /// of the receive and the transmit queue.
    pub(crate) fn settle(&mut self, receive: u16, transmit: u16) -> Left {
        let index = self.memory.load(INDEX);
        let is_next = |used: u16, count: u32| u32::from(used) == index.wrapping_add(count) & 0xffff;
        let mut left = Left::default();
        match self.memory.load(STATE) {
            state::DECIDED => self.apply_after(),
            state::TAKEN if is_next(transmit, 1) => self.apply_after(),
            state::GIVEN if is_next(receive, self.memory.load(CHAINS)) => self.apply_after(),
            state::TAKING | state::TAKEN => self.begin_again(),
            state::GIVEN => self.memory.store(STATE, state::NONE),
            state::FLUSHING => self.end_flush(),
            _ => {}
        }
        left.received = self.noted_by(RECEIVER, RECEIVED);
        left.same_driver = self.counters.transmitted == u32::from(transmit);
        left
    }

    /// The step counts that was made before.
    fn apply_after(&mut self) {
        let [slot, rest @ ..] = self.memory.read::<AFTER_WORDS>(AFTER);
        let (record, counters) = rest.split_at(RECORD_SIZE / 4);
        self.counters = Counters::from_words(words(counters));
        self.bound_resets();
        let slot = slot.checked_sub(1).and_then(|slot| slot.try_into().ok());
        self.apply(slot.map(|slot| (slot, words(record))));
    }

    /// What the kernel took of a backlog is no longer in it.
    fn end_flush(&mut self) {
        let flushed = self.noted_by(SENDER, SENT).map(|(slot, count)| {
            let record = self.memory.read(record_at(slot));
            (slot, Connection::flushed(slot, record, count))
        });
        self.decide(flushed);
    }

    /// The packet will be taken again: remembers how much of it is in the stream.
    fn begin_again(&mut self) {
        if let Some((slot, count)) = self.noted_by(SENDER, SENT) {
            let begun = self.begun(slot).saturating_add(count);
            self.counters.begun_slot = u32::from(slot).saturating_add(1);
            self.counters.begun = u32::try_from(begun).unwrap_or(0);
        }
        self.decide(None);
    }

    /// What is kept of connections, by slot.
    pub(crate) fn records(&self) -> impl Iterator<Item = Change> {
        // Looking takes memory.
        let slots = if self.is_fresh { 0 } else { MAX_CONNECTIONS };
        let slots = (0..u16::MAX).take(slots);
        slots.filter_map(|slot| {
            let record: Record = self.memory.read(record_at(slot));
            (record != Record::default()).then_some((slot, record))
        })
    }

    /// `length` bytes of a slot's backlog from `start` on, which begins anew at its end.
    pub(crate) fn backlog(&self, slot: u16, start: usize, length: usize) -> Buffers<'_> {
        let (size, slot) = (buffer(slot), usize::from(slot));
        let offset = if slot < FEW {
            BACKLOGS.saturating_add(slot.saturating_mul(size))
        } else {
            let before = slot.saturating_sub(FEW).saturating_mul(size);
            SMALL_BACKLOGS.saturating_add(before)
        };
        let start = start.checked_rem(size).unwrap_or(0);
        let first = length.min(size.saturating_sub(start));
        let mut parts = self.memory.part(offset.saturating_add(start), first);
        let second = length.saturating_sub(first).min(start);
        parts.extend(&self.memory.part(offset, second));
        parts
    }

    /// How many resets the guest has still to be given.
    pub(crate) fn resets(&self) -> u32 {
        let due = self.counters.resets_due;
        due.wrapping_sub(self.counters.resets_given)
    }

    /// Adds a reset, with the step that is being made. There must be fewer than [`MAX_RESETS`].
    pub(crate) fn push_reset(&mut self, reset: &Header) {
        let offset = reset_at(self.counters.resets_due);
        self.memory.part(offset, Header::SIZE).fill(&reset.encode());
        self.counters.resets_due = self.counters.resets_due.wrapping_add(1);
    }

    /// The reset that is given next.
    pub(crate) fn first_reset(&self) -> Option<Header> {
        let mut bytes = [0; Header::SIZE];
        let offset = reset_at(self.counters.resets_given);
        self.memory.part(offset, Header::SIZE).peek(&mut bytes);
        (self.resets() > 0).then(|| Header::parse(&bytes))
    }

    /// It is, with the step that is being made.
    pub(crate) fn pop_reset(&mut self) {
        self.counters.resets_given = self.counters.resets_given.wrapping_add(1);
    }

    /// None is due any more, with the step that is being made.
    pub(crate) fn clear_resets(&mut self) {
        self.counters.resets_given = self.counters.resets_due;
    }
}

/// Bytes that the guest may send on the connection in a slot before we have passed them on.
pub(crate) fn buffer(slot: u16) -> usize {
    if usize::from(slot) < FEW {
        LARGE_BUFFER
    } else {
        SMALL_BUFFER
    }
}

fn record_at(slot: u16) -> usize {
    RECORDS.saturating_add(usize::from(slot).saturating_mul(RECORD_SIZE))
}

fn reset_at(number: u32) -> usize {
    let place = usize::try_from(number % MAX_RESETS).unwrap_or(0);
    RESETS.saturating_add(place.saturating_mul(RESET_SIZE))
}

fn words<const N: usize>(words: &[u32]) -> [u32; N] {
    words.try_into().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixStream;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SLOT: u16 = 300;

    /// A journal, and as the process after the one that was killed just now opens it.
    struct Lives {
        file: OwnedFd,
        journal: Journal,
    }

    impl Lives {
        fn begin() -> Self {
            let file = tempfile::tempfile().unwrap();
            file.set_len(JOURNAL_SIZE).unwrap();
            let file = OwnedFd::from(file);
            let journal = Journal::open(file.try_clone().unwrap()).unwrap();
            journal.decide(Some((SLOT, record(1))));
            Self { file, journal }
        }

        fn killed(self) -> Self {
            let journal = Journal::open(self.file.try_clone().unwrap()).unwrap();
            Self { journal, ..self }
        }

        fn record(&self) -> Record {
            let mut records = self.journal.records();
            let (slot, record) = records.next().unwrap();
            assert_eq!((slot, records.next()), (SLOT, None));
            record
        }
    }

    /// Ten bytes wait from the third on.
    fn record(phase: u32) -> Record {
        let mut record = Record::default();
        (record[0], record[7], record[8]) = (phase, 3, 10);
        record
    }

    /// The kernel takes `count` bytes.
    fn send(journal: &Journal, count: usize) {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let note = journal.sender(SLOT).unwrap();
        let sent = journal.backlog(SLOT, 0, count).send(ours.as_fd(), &note);
        assert_eq!(sent.unwrap(), count);
    }

    /// The kernel has `count` bytes for the guest.
    fn receive(journal: &Journal, count: usize) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&vec![1; count]).unwrap();
        let note = journal.receiver(SLOT).unwrap();
        let received = journal.backlog(SLOT, 0, 100).receive(ours.as_fd(), &note);
        assert_eq!(received.unwrap(), count);
    }

    #[test]
    fn what_is_decided_is_there() {
        let mut lives = Lives::begin().killed();
        assert!(lives.journal.settle(0, 0).same_driver);
        assert_eq!(lives.record(), record(1));
    }

    #[test]
    fn a_packet_that_was_not_returned_is_taken_again_without_what_was_sent_of_it() {
        for taken in [false, true] {
            let mut lives = Lives::begin();
            for begun in [5, 12] {
                lives.journal.taking(65535);
                send(&lives.journal, if begun == 5 { 5 } else { 7 });
                if taken {
                    lives.journal.taken(Some((SLOT, record(2))));
                }
                // However often the next ones are killed before they begin.
                for _ in 0..2 {
                    lives = lives.killed();
                    lives.journal.settle(0, 65535);
                    assert_eq!(lives.journal.begun(SLOT), begun);
                    assert_eq!(lives.journal.begun(SLOT + 1), 0);
                    assert_eq!(lives.record(), record(1));
                }
            }
        }
    }

    #[test]
    fn a_packet_that_was_returned_counts() {
        let mut lives = Lives::begin();
        lives.journal.taking(65535);
        send(&lives.journal, 5);
        lives.journal.push_reset(&Header::reset_of(3, 1, 2));
        lives.journal.taken(Some((SLOT, record(2))));
        lives = lives.killed();
        let left = lives.journal.settle(0, 0);
        assert!(left.same_driver);
        assert_eq!(lives.journal.begun(SLOT), 0);
        assert_eq!(lives.record(), record(2));
        assert_eq!(lives.journal.resets(), 1);
        assert_eq!(
            lives.journal.first_reset().unwrap(),
            Header::reset_of(3, 1, 2)
        );
    }

    #[test]
    fn another_driver_is_told_from_the_one_before() {
        let mut lives = Lives::begin();
        lives.journal.taking(8);
        lives.journal.taken(None);
        lives.journal.apply(None);
        lives = lives.killed();
        assert!(lives.journal.settle(0, 9).same_driver);
        assert!(!lives.journal.settle(0, 0).same_driver);
    }

    #[test]
    fn what_was_received_is_given_unless_the_guest_has_it() {
        for seen in [false, true] {
            let mut lives = Lives::begin();
            receive(&lives.journal, 6);
            for _ in 0..2 {
                lives = lives.killed();
                assert_eq!(lives.journal.settle(7, 0).received, Some((SLOT, 6)));
            }
            lives.journal.given(7, 2, Some((SLOT, record(2))));
            lives = lives.killed();
            let left = lives.journal.settle(if seen { 9 } else { 7 }, 0);
            assert_eq!(left.received, (!seen).then_some((SLOT, 6)));
            assert_eq!(lives.record(), record(if seen { 2 } else { 1 }));
        }
    }

    #[test]
    fn what_was_flushed_does_not_wait_any_more() {
        let mut lives = Lives::begin();
        lives.journal.flushing();
        send(&lives.journal, 4);
        for _ in 0..2 {
            lives = lives.killed();
            lives.journal.settle(0, 0);
            let record = lives.record();
            assert_eq!((record[7], record[8], record[10]), (7, 6, 4));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whoever had the process before may have written anything.
        #[test]
        fn a_journal_of_any_content_is_settled(
            words in vec(prop_oneof![0..8u32, any::<u32>()], RECORDS / 4),
            state in 0..7u32,
            garbage in any::<Record>(),
            slot in 0..4096_u16,
            (receive, transmit) in any::<(u16, u16)>(),
        ) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(JOURNAL_SIZE).unwrap();
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            file.write_all_at(&bytes, 0).unwrap();
            file.write_all_at(&CURRENT.to_ne_bytes(), VERSION as u64).unwrap();
            file.write_all_at(&state.to_ne_bytes(), STATE as u64).unwrap();
            let bytes: Vec<u8> = garbage.iter().flat_map(|word| word.to_ne_bytes()).collect();
            file.write_all_at(&bytes, record_at(slot) as u64).unwrap();

            let mut journal = Journal::open(file.into()).unwrap();
            journal.settle(receive, transmit);
            prop_assert!(journal.resets() <= MAX_RESETS);
            prop_assert!(journal.records().count() <= 3);
            while journal.first_reset().is_some() {
                journal.pop_reset();
            }
            journal.push_reset(&Header::reset_of(3, 1, 2));
            journal.decide(None);
            prop_assert_eq!(journal.first_reset(), Some(Header::reset_of(3, 1, 2)));
        }
    }

    #[test]
    fn a_backlog_begins_anew_at_its_end() {
        let lives = Lives::begin();
        for slot in [0, 255, 256, 4095] {
            let size = buffer(slot);
            let mut parts = lives.journal.backlog(slot, size - 2, 5);
            assert_eq!(parts.len(), 5);
            parts.fill(b"abcde");
            let mut bytes = [0; 3];
            lives.journal.backlog(slot, 0, 3).peek(&mut bytes);
            assert_eq!(&bytes, b"cde");
            assert_eq!(lives.journal.backlog(slot, 7, size).len(), size);
        }
    }
}
