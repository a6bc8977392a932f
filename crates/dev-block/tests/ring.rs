//! Correct traffic: what a driver asks for is done to the files, byte for byte.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use dev_block::request::{Header, feature, kind};
use guest::{
    ALL, Guest, Host, IO_ERROR, Layout, OK, PATIENCE, UNSUPPORTED, config, files, handles, range,
};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::prelude::*;
use vq_driver::{Buffer, Driver, F_EVENT_IDX, Setup};
use wire::block::Config;

fn pattern(seed: u8, sectors: usize) -> Vec<u8> {
    let byte = |at: usize| (at as u8) ^ ((at >> 8) as u8) ^ seed;
    (0..sectors * 512).map(byte).collect()
}

/// What the extents hold together.
fn content(config: &Config, files: &[File]) -> Vec<u8> {
    let mut all = Vec::new();
    for (extent, file) in config.extents.iter().zip(files) {
        let mut bytes = vec![0; extent.sectors as usize * 512];
        let _ = file.read_at(&mut bytes, 0).unwrap();
        all.extend(bytes);
    }
    all
}

/// A disk, its device, and a guest.
fn disk(config: Config) -> (Vec<File>, Host, Guest) {
    let files = files(&config);
    let host = Host::start(config, handles(&files));
    let guest = Guest::start(&host);
    (files, host, guest)
}

fn number(space: &[u8], at: usize, length: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..length].copy_from_slice(&space[at..at + length]);
    u64::from_le_bytes(bytes)
}

#[test]
fn the_configuration_space_is_laid_out_as_the_specification_says() {
    let config = Config {
        queues: 3,
        ..config(&[4096, 8])
    };
    let (_files, _host, guest) = disk(config);
    let changes = feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES;
    let all = feature::SEG_MAX | feature::BLK_SIZE | feature::TOPOLOGY | feature::MQ | changes;
    assert_eq!(guest.driver.features & 0xff_ffff, all);
    let space = guest.driver.frontend.config(0, 60).unwrap();
    // Offset, length and value of each field (section 5.2.4).
    for (at, length, value) in [
        (0, 8, 4104),
        (8, 4, 0),
        (12, 4, 254),
        (20, 4, 512),
        (24, 1, 3),
        (25, 1, 0),
        (26, 2, 8),
        (28, 4, 0),
        (34, 2, 3),
        (36, 4, 1 << 21),
        (40, 4, 32),
        (44, 4, 8),
        (48, 4, 1 << 17),
        (52, 4, 1),
        (56, 1, 1),
    ] {
        assert_eq!(number(&space, at, length), value, "at {at}");
    }
}

#[test]
fn what_is_written_is_in_the_file_and_what_is_in_the_file_is_read() {
    let (files, _host, mut guest) = disk(config(&[4096]));
    for (layout, sector) in [
        (Layout::Plain, 0),
        (Layout::Joined, 7),
        (Layout::Cut, 100),
        (Layout::Indirect, 4000),
    ] {
        guest.layout = layout;
        let bytes = pattern(sector as u8, 90);
        assert_eq!(guest.tell(kind::OUT, sector, &bytes), OK);
        let mut seen = vec![0; bytes.len()];
        files[0].read_exact_at(&mut seen, sector * 512).unwrap();
        assert!(seen == bytes, "{layout:?}");
        assert!(guest.read(sector, 90) == bytes, "{layout:?}");
    }
    files[0].write_all_at(b"from outside", 512).unwrap();
    assert_eq!(&guest.read(1, 1)[..12], b"from outside");
    assert_eq!(guest.tell(kind::FLUSH, 0, &[]), OK);
    assert_eq!(files[0].metadata().unwrap().len(), 4096 * 512);
}

#[test]
fn a_megabyte_in_pages_is_read_and_written() {
    let (files, _host, mut guest) = disk(config(&[4096]));
    let bytes = pattern(5, 2048);
    files[0].write_all_at(&bytes, 512).unwrap();
    let memory = guest.driver.memory.clone();
    let (header, room) = (
        memory.allocate(32).unwrap(),
        memory.allocate(1 << 20).unwrap(),
    );
    // One chain of 126 descriptors and more in one of them; backwards, so that no two are merged.
    let request = |kind, sector| Header { kind, sector }.encode();
    let parts: Vec<(u64, u32)> = (0..124_u64)
        .map(|page| (room + (123 - page) * 4096, 4096))
        .collect();
    for (code, what) in [
        (kind::IN, request(kind::IN, 1)),
        (kind::OUT, request(kind::OUT, 2048)),
    ] {
        memory.write(header, &what).unwrap();
        let mut buffers = vec![Buffer::readable(header, 16)];
        buffers.extend(parts.iter().map(|(at, length)| match code {
            kind::IN => Buffer::writable(*at, *length),
            _ => Buffer::readable(*at, *length),
        }));
        buffers.push(Buffer::writable(header + 16, 1));
        let queue = &mut guest.driver.queues[0];
        queue.add(&buffers).unwrap();
        queue.kick().unwrap();
        queue.wait(PATIENCE).unwrap();
        let mut status = [9];
        memory.read(header + 16, &mut status).unwrap();
        assert_eq!(status, [OK]);
    }
    let mut seen = vec![0; 124 * 4096];
    files[0].read_exact_at(&mut seen, 2048 * 512).unwrap();
    assert!(seen == bytes[..seen.len()]);
}

#[test]
fn a_request_that_crosses_extents_is_split() {
    let config = config(&[8, 16, 8, 3]);
    let (files, host, mut guest) = disk(config);
    for layout in [Layout::Plain, Layout::Joined, Layout::Cut, Layout::Indirect] {
        guest.layout = layout;
        for (sector, sectors) in [(0, 35), (7, 2), (4, 25), (31, 4), (34, 1)] {
            let bytes = pattern(sectors as u8, sectors);
            assert_eq!(guest.tell(kind::OUT, sector, &bytes), OK);
            let all = content(&host.config, &files);
            let start = sector as usize * 512;
            assert!(all[start..start + bytes.len()] == bytes);
            assert!(guest.read(0, 35) == all);
        }
    }
    // Nothing became longer than it was.
    for (file, sectors) in files.iter().zip([8, 16, 8, 3]) {
        assert_eq!(file.metadata().unwrap().len(), sectors * 512);
    }
}

fn read_only(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

#[test]
fn what_is_read_only_is_read_and_not_written_and_ends_in_zeros() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes = [pattern(1, 3), b"the end".to_vec()].concat();
    file.write_all(&bytes).unwrap();
    let tail = tempfile::NamedTempFile::new().unwrap();
    tail.as_file().set_len(4096).unwrap();
    tail.as_file().write_all_at(b"behind it", 0).unwrap();
    let config = Config {
        read_only: true,
        ..config(&[1024, 8])
    };
    let extents = vec![read_only(file.path()), read_only(tail.path())];
    let host = Host::start(config, extents);
    let mut guest = Guest::start(&host);
    let changes = feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES;
    assert_eq!(guest.driver.features & (feature::RO | changes), feature::RO);
    for layout in [Layout::Plain, Layout::Joined, Layout::Cut] {
        guest.layout = layout;
        let mut expected = bytes.clone();
        expected.resize(1024 * 512, 0);
        expected.extend(b"behind it");
        expected.resize(1032 * 512, 0);
        assert!(guest.read(0, 1032) == expected);
        assert_eq!(guest.tell(kind::OUT, 0, &[7; 512]), IO_ERROR);
        assert_eq!(guest.tell(kind::DISCARD, 0, &range(0, 1, 0)), UNSUPPORTED);
        assert_eq!(
            guest.tell(kind::WRITE_ZEROES, 0, &range(0, 1, 0)),
            UNSUPPORTED
        );
        assert_eq!(guest.tell(kind::FLUSH, 0, &[]), UNSUPPORTED);
    }
    assert!(std::fs::read(file.path()).unwrap() == bytes);
}

#[test]
fn the_serial_number_is_said() {
    let (_files, _host, mut guest) = disk(config(&[8]));
    let answer = guest.ask(kind::GET_ID, 0, &[], 20);
    assert_eq!((answer.status, answer.written), (OK, 21));
    assert_eq!(answer.data, b"a disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let answer = guest.ask(kind::GET_ID, 0, &[], 30);
    // What is behind it is not filled, and not said to be.
    assert_eq!((answer.status, answer.written), (OK, 20));
    assert_eq!(answer.data[20..], [0xee; 10]);
}

#[test]
fn every_queue_is_served_with_and_without_the_event_index() {
    for features in [ALL, ALL & !F_EVENT_IDX] {
        let config = Config {
            queues: 4,
            ..config(&[64])
        };
        let files = files(&config);
        let host = Host::start(config, handles(&files));
        let socket = host.socket.try_clone().unwrap();
        let mut guest = Guest::start_with(socket, features, 4);
        assert_eq!(guest.driver.frontend.queue_count().unwrap(), 4);
        for round in 0..200_u8 {
            let queue = usize::from(round % 4);
            let header = Header {
                kind: kind::OUT,
                sector: u64::from(round % 64),
            };
            let answer = guest.ask_by(queue, header, &[round; 512], 0);
            assert_eq!(answer.status, OK);
        }
        let mut seen = [0; 512];
        files[0].read_exact_at(&mut seen, 7 * 512).unwrap();
        assert_eq!(seen, [199; 512]);
    }
}

#[test]
fn many_requests_at_once_are_all_done_and_in_their_order() {
    const ROUNDS: u64 = 50;
    let (files, _host, mut guest) = disk(config(&[1024]));
    let memory = guest.driver.memory.clone();
    let room = memory.allocate(42 * 1024).unwrap();
    for round in 0..ROUNDS {
        let mut heads = Vec::new();
        for slot in 0..42 {
            let at = room + slot * 1024;
            // Two of them write each sector: the second one wins.
            let header = Header {
                kind: kind::OUT,
                sector: slot / 2,
            };
            memory.write(at, &header.encode()).unwrap();
            memory.write(at + 16, &[(round + slot) as u8; 512]).unwrap();
            let queue = &mut guest.driver.queues[0];
            let buffers = [Buffer::readable(at, 528), Buffer::writable(at + 600, 1)];
            heads.push(queue.add(&buffers).unwrap());
        }
        let queue = &mut guest.driver.queues[0];
        queue.kick().unwrap();
        for head in heads {
            assert_eq!(queue.wait(PATIENCE).unwrap().head, head);
        }
        for sector in 0..21 {
            let mut seen = [0; 512];
            files[0].read_exact_at(&mut seen, sector * 512).unwrap();
            assert_eq!(seen, [(round + sector * 2 + 1) as u8; 512]);
        }
    }
}

#[test]
fn more_requests_than_one_turn_takes_are_all_done_after_one_kick() {
    let config = config(&[256]);
    let files = files(&config);
    let host = Host::start(config, handles(&files));
    let setup = Setup {
        queues: &[256],
        features: ALL,
        ..Setup::default()
    };
    let mut driver = Driver::start(host.socket.try_clone().unwrap(), &setup).unwrap();
    let memory = driver.memory.clone();
    let room = memory.allocate(256 * 1024).unwrap();
    let queue = &mut driver.queues[0];
    for sector in 0..256 {
        let at = room + sector * 1024;
        let header = Header {
            kind: kind::OUT,
            sector,
        };
        memory.write(at, &header.encode()).unwrap();
        memory.write(at + 16, &[sector as u8; 512]).unwrap();
        let buffers = [Buffer::readable(at, 528), Buffer::writable(at + 600, 1)];
        queue.add_indirect(&buffers).unwrap();
    }
    queue.kick_anyway().unwrap();
    for _ in 0..256 {
        queue.wait(PATIENCE).unwrap();
    }
    for sector in 0..256 {
        let mut seen = [0; 512];
        files[0].read_exact_at(&mut seen, sector * 512).unwrap();
        assert_eq!(seen, [sector as u8; 512]);
    }
}

/// Discards and zeroes on the file system of `files`.
fn clear(config: Config, files: &[File]) {
    let host = Host::start(config, handles(files));
    let mut guest = Guest::start(&host);
    let mut expected = pattern(9, 4096);
    for sector in (0..4096_u64).step_by(1024) {
        let start = sector as usize * 512;
        let bytes = &expected[start..start + 1024 * 512];
        assert_eq!(guest.tell(kind::OUT, sector, bytes), OK);
    }
    let mut zero =
        |from: usize, sectors: usize| expected[from * 512..(from + sectors) * 512].fill(0);
    // Not where pages begin and end, and across extents.
    let ranges = [range(3, 9, 0), range(1020, 10, 0), range(0, 0, 0)].concat();
    assert_eq!(guest.tell(kind::DISCARD, 0, &ranges), OK);
    zero(3, 9);
    zero(1020, 10);
    for (from, sectors, flags) in [(2000, 1001, 0), (100, 700, 1), (1000, 3000, 0)] {
        let bytes = range(from, sectors, flags);
        assert_eq!(guest.tell(kind::WRITE_ZEROES, 0, &bytes), OK);
        zero(from as usize, sectors as usize);
    }
    for sector in (0..4096).step_by(1024) {
        let start = sector * 512;
        assert!(guest.read(sector as u64, 1024) == expected[start..start + 1024 * 512]);
    }
    assert!(content(&host.config, files) == expected);
}

#[test]
fn discarded_and_zeroed_sectors_read_as_zeros_and_no_others_do() {
    let config = config(&[1024, 3072]);
    clear(config.clone(), &files(&config));
}

#[test]
fn sectors_are_zeroed_where_the_file_system_cannot_do_it() {
    // tmpfs frees ranges, and does not zero them.
    let config = config(&[1024, 3072]);
    let files: Vec<File> = [1024, 3072]
        .map(|sectors| {
            let file = File::from(memfd_create(c"disk", MFdFlags::MFD_CLOEXEC).unwrap());
            file.set_len(sectors * 512).unwrap();
            file
        })
        .into();
    clear(config, &files);
}

#[test]
fn zeroing_keeps_the_room_unless_it_need_not() {
    use std::os::unix::fs::MetadataExt;
    let (files, _host, mut guest) = disk(config(&[2048]));
    let blocks = || files[0].metadata().unwrap().blocks();
    assert_eq!(guest.tell(kind::OUT, 0, &pattern(1, 2048)), OK);
    assert_eq!(guest.tell(kind::FLUSH, 0, &[]), OK);
    let full = blocks();
    assert_eq!(guest.tell(kind::WRITE_ZEROES, 0, &range(0, 1024, 0)), OK);
    assert_eq!(guest.tell(kind::FLUSH, 0, &[]), OK);
    assert!(blocks() >= full, "{} < {full}", blocks());
    assert_eq!(guest.tell(kind::WRITE_ZEROES, 0, &range(0, 1024, 1)), OK);
    assert_eq!(guest.tell(kind::DISCARD, 0, &range(1024, 1024, 0)), OK);
    assert!(blocks() < full / 4, "{} of {full}", blocks());
    assert_eq!(files[0].metadata().unwrap().len(), 2048 * 512);
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_and_later_requests_go_on() {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"disk", flags).unwrap());
    file.set_len(8 * 512).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
    let host = Host::start(config(&[8]), handles(&[file]));
    let mut guest = Guest::start(&host);
    assert_eq!(guest.tell(kind::OUT, 0, &[1; 512]), IO_ERROR);
    assert_eq!(guest.tell(kind::DISCARD, 0, &range(0, 8, 0)), IO_ERROR);
    assert_eq!(guest.tell(kind::WRITE_ZEROES, 0, &range(0, 8, 0)), IO_ERROR);
    assert_eq!(guest.read(0, 8), [0; 8 * 512]);
}

/// A file on a file system of 1 MiB that nobody else sees.
fn on_a_small_file_system(length: u64) -> Option<File> {
    let flags = CloneFlags::CLONE_NEWNS;
    if let Err(error) = unshare(flags) {
        // Shown with the test's name, also where output is captured.
        let _ = std::io::stderr().write_all(
            format!("NOT TRIED on a full disk: a mount of one's own takes root ({error})\n")
                .as_bytes(),
        );
        return None;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let place = tempfile::tempdir().unwrap();
    let nothing = MsFlags::empty();
    mount(
        Some("disk"),
        place.path(),
        Some("tmpfs"),
        nothing,
        Some("size=1m"),
    )
    .unwrap();
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(place.path().join("disk"))
        .unwrap();
    file.set_len(length).unwrap();
    nix::mount::umount2(place.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    Some(file)
}

#[test]
fn a_full_disk_is_an_error_and_later_requests_go_on() {
    // A thread of its own has the mount to itself.
    let file = std::thread::spawn(|| on_a_small_file_system(4 << 20)).join();
    let Some(file) = file.unwrap() else { return };
    let host = Host::start(config(&[8192]), handles(&[file]));
    let mut guest = Guest::start(&host);
    let bytes = pattern(3, 1024);
    assert_eq!(guest.tell(kind::OUT, 0, &bytes), OK);
    for sector in [4096, 2048, 6000] {
        assert_eq!(guest.tell(kind::OUT, sector, &pattern(4, 2048)), IO_ERROR);
    }
    assert_eq!(
        guest.tell(kind::WRITE_ZEROES, 0, &range(2048, 4096, 0)),
        IO_ERROR
    );
    assert!(guest.read(0, 1024) == bytes);
    // What is given back makes room.
    assert_eq!(guest.tell(kind::DISCARD, 0, &range(0, 8192, 0)), OK);
    assert_eq!(guest.tell(kind::OUT, 4096, &bytes), OK);
    assert!(guest.read(4096, 1024) == bytes);
}

/// One thing that a guest does, in sectors.
#[derive(Debug, Clone)]
enum Deed {
    Read(u64, usize),
    Write(u64, usize, u8),
    Discard(Vec<(u64, u32)>),
    Zero(u64, u32, u32),
    Flush,
}

/// Sectors of the disk that the property is tried on.
const SECTORS: u64 = 8 + 24 + 16 + 5;

fn stretch() -> impl Strategy<Value = (u64, u64)> {
    (0..=SECTORS, 0..=SECTORS).prop_map(|(one, other)| (one.min(other), one.abs_diff(other)))
}

fn deed() -> impl Strategy<Value = Deed> {
    let list = proptest::collection::vec(stretch(), 1..4);
    let list = list.prop_map(|list| list.iter().map(|&(at, n)| (at, n as u32)).collect());
    prop_oneof![
        3 => stretch().prop_map(|(at, count)| Deed::Read(at, count as usize)),
        4 => (stretch(), any::<u8>()).prop_map(|((at, n), seed)| Deed::Write(at, n as usize, seed)),
        1 => list.prop_map(Deed::Discard),
        1 => (stretch(), 0..2_u32).prop_map(|((at, n), flags)| Deed::Zero(at, n as u32, flags)),
        1 => Just(Deed::Flush),
    ]
}

/// Does it to the disk and to the model.
fn perform(guest: &mut Guest, model: &mut [u8], deed: &Deed) {
    let bytes = |at: u64, count: usize| at as usize * 512..(at as usize + count) * 512;
    match deed {
        Deed::Read(at, count) => {
            assert!(guest.read(*at, *count) == model[bytes(*at, *count)]);
        }
        Deed::Write(at, count, seed) => {
            let data = pattern(*seed, *count);
            assert_eq!(guest.tell(kind::OUT, *at, &data), OK);
            model[bytes(*at, *count)].copy_from_slice(&data);
        }
        Deed::Discard(list) => {
            let ranges: Vec<_> = list.iter().map(|&(at, n)| range(at, n, 0)).collect();
            assert_eq!(guest.tell(kind::DISCARD, 0, &ranges.concat()), OK);
            for (at, count) in list {
                model[bytes(*at, *count as usize)].fill(0);
            }
        }
        Deed::Zero(at, count, flags) => {
            let range = range(*at, *count, *flags);
            assert_eq!(guest.tell(kind::WRITE_ZEROES, 0, &range), OK);
            model[bytes(*at, *count as usize)].fill(0);
        }
        Deed::Flush => assert_eq!(guest.tell(kind::FLUSH, 0, &[]), OK),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_is_done_the_disk_holds_what_a_row_of_bytes_would(
        deeds in proptest::collection::vec((deed(), 0..4_usize), 1..40),
    ) {
        let layouts = [Layout::Plain, Layout::Joined, Layout::Cut, Layout::Indirect];
        let (files, host, mut guest) = disk(config(&[8, 24, 16, 5]));
        let mut model = vec![0; SECTORS as usize * 512];
        for (deed, layout) in deeds {
            guest.layout = layouts[layout];
            perform(&mut guest, &mut model, &deed);
        }
        prop_assert!(content(&host.config, &files) == model);
    }
}
