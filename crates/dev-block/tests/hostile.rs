//! Malicious traffic: nonsense costs its sender, changes nothing, and the device goes on.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use dev_block::request::{Header, kind};
use guest::{
    Guest, Host, IO_ERROR, Layout, OK, PATIENCE, UNSUPPORTED, config, files, handles, range,
};
use proptest::prelude::*;
use vq_driver::{BASE, Descriptor, F_INDIRECT, F_NEXT, F_WRITE};

/// A disk with something on it, its device, and a guest.
fn disk() -> (File, Host, Guest) {
    let config = config(&[64]);
    let file = files(&config).remove(0);
    file.write_all_at(&[0xaa; 64 * 512], 0).unwrap();
    let host = Host::start(config, handles(std::slice::from_ref(&file)));
    let guest = Guest::start(&host);
    (file, host, guest)
}

#[track_caller]
fn assert_unchanged(file: &File) {
    let mut bytes = vec![0; 64 * 512 + 1];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 64 * 512);
    assert!(bytes[..64 * 512].iter().all(|byte| *byte == 0xaa));
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address,
        length,
        flags,
        next,
    }
}

/// Puts a chain that starts at descriptor 5 into the queue by hand, and waits for its return.
fn submit(guest: &mut Guest, chain: &[(u16, Descriptor)]) -> u32 {
    let queue = &mut guest.driver.queues[0];
    for (index, descriptor) in chain {
        queue.write_descriptor(*index, *descriptor).unwrap();
    }
    queue.expect_head(5);
    queue.publish(5).unwrap();
    queue.kick_anyway().unwrap();
    let used = queue.wait(PATIENCE).unwrap();
    assert_eq!(used.head, 5);
    used.written
}

/// What the status is before the device writes it.
const NONE: u8 = 0xee;

/// A write of one sector at `memory`, its data behind the header, its status at 2048.
fn write(guest: &Guest, memory: u64) {
    let header = Header {
        kind: kind::OUT,
        sector: 1,
    };
    guest.driver.memory.write(memory, &header.encode()).unwrap();
    guest.driver.memory.write(memory + 2048, &[NONE]).unwrap();
}

fn status(guest: &Guest, memory: u64) -> u8 {
    let mut status = [0];
    guest
        .driver
        .memory
        .read(memory + 2048, &mut status)
        .unwrap();
    status[0]
}

#[test]
fn malformed_chains_change_nothing_and_are_answered_where_there_is_room() {
    let (file, _host, mut guest) = disk();
    let memory = guest.driver.memory.allocate(4096).unwrap();
    let end = BASE + guest.driver.memory.size() as u64;
    let ready = (7, descriptor(memory + 2048, 1, F_WRITE, 0));
    let header = (5, descriptor(memory, 16, F_NEXT, 6));
    type Chain = Vec<(u16, Descriptor)>;
    let data = |address, length| -> Chain {
        vec![header, (6, descriptor(address, length, F_NEXT, 7)), ready]
    };
    let cases: Vec<(&str, Chain, u8)> = vec![
        ("no status", vec![(5, descriptor(memory, 528, 0, 0))], NONE),
        (
            "a status of no bytes",
            vec![
                header,
                (6, descriptor(memory, 512, F_NEXT, 7)),
                (7, descriptor(memory + 2048, 0, F_WRITE, 0)),
            ],
            NONE,
        ),
        (
            "a status that can only be read",
            vec![
                header,
                (6, descriptor(memory, 512, F_NEXT, 7)),
                (7, descriptor(memory + 2048, 1, 0, 0)),
            ],
            NONE,
        ),
        (
            "a status outside of memory",
            vec![
                header,
                (6, descriptor(memory, 512, F_NEXT, 7)),
                (7, descriptor(end, 1, F_WRITE, 0)),
            ],
            NONE,
        ),
        ("no header", vec![(5, ready.1)], IO_ERROR),
        (
            "a short header",
            vec![(5, descriptor(memory, 15, F_NEXT, 7)), ready],
            IO_ERROR,
        ),
        (
            "a header that is to be written",
            vec![
                (5, descriptor(memory + 64, 528, F_WRITE | F_NEXT, 7)),
                ready,
            ],
            IO_ERROR,
        ),
        ("half a sector", data(memory, 256), IO_ERROR),
        ("a byte too many", data(memory, 513), IO_ERROR),
        ("data below memory", data(0, 512), IO_ERROR),
        (
            "data across the end of memory",
            data(end - 256, 512),
            IO_ERROR,
        ),
        (
            "data at the end of the address space",
            data(u64::MAX - 10, 512),
            IO_ERROR,
        ),
        (
            "almost 4 GiB of data",
            data(memory, u32::MAX - 64),
            IO_ERROR,
        ),
        // The chain is cut where its bytes cannot be counted (section 2.7.5.2).
        ("more than 4 GiB in sum", data(memory, u32::MAX), NONE),
        ("data beyond the disk", data(memory, 64 * 512), IO_ERROR),
        (
            "data that is to be written",
            vec![
                header,
                (6, descriptor(memory + 512, 512, F_WRITE | F_NEXT, 7)),
                ready,
            ],
            IO_ERROR,
        ),
        (
            "a loop of one",
            vec![(5, descriptor(memory, 16, F_NEXT, 5))],
            NONE,
        ),
        (
            "next out of range",
            vec![header, (6, descriptor(memory, 512, F_NEXT, 60_000))],
            NONE,
        ),
        (
            "an indirect table outside",
            vec![(5, descriptor(end, 48, F_INDIRECT, 0))],
            NONE,
        ),
        (
            "an indirect table of odd length",
            vec![(5, descriptor(memory, 17, F_INDIRECT, 0))],
            NONE,
        ),
        (
            "an empty indirect table",
            vec![(5, descriptor(memory, 0, F_INDIRECT, 0))],
            NONE,
        ),
        (
            "an indirect table with a next",
            vec![(5, descriptor(memory, 16, F_INDIRECT | F_NEXT, 5))],
            NONE,
        ),
    ];
    for (name, chain, expected) in cases {
        write(&guest, memory);
        let written = submit(&mut guest, &chain);
        // The one byte of a status may not be said, where there is data before it that is not.
        assert!(written <= u32::from(expected != NONE), "{name}: {written}");
        let seen = status(&guest, memory);
        // A status in a buffer that is used for something else is not looked at.
        if !name.contains("to be written") {
            assert_eq!(seen, expected, "{name}");
        }
        assert_unchanged(&file);
        guest.assert_served();
    }
    // The same, but for the mistakes.
    write(&guest, memory);
    assert_eq!(submit(&mut guest, &data(memory + 512, 512)), 1);
    assert_eq!(status(&guest, memory), OK);
}

#[test]
fn requests_that_make_no_sense_change_nothing() {
    let (file, _host, mut guest) = disk();
    let sector = [1; 512];
    let cases: [(u32, u64, &[u8], usize, u8); 16] = [
        (kind::OUT, 64, &sector, 0, IO_ERROR),
        (kind::OUT, u64::MAX, &sector, 0, IO_ERROR),
        (kind::OUT, u64::MAX / 512, &sector, 0, IO_ERROR),
        (kind::OUT, 1 << 55, &sector, 0, IO_ERROR),
        (kind::OUT, 0, &sector, 512, IO_ERROR),
        (kind::IN, 64, &[], 512, IO_ERROR),
        (kind::IN, 63, &[], 1024, IO_ERROR),
        (kind::IN, 0, &[], 511, IO_ERROR),
        (kind::IN, 0, &sector, 512, IO_ERROR),
        (kind::GET_ID, 0, &[], 19, IO_ERROR),
        (2, 0, &sector, 0, UNSUPPORTED),
        (10, 0, &[], 24, UNSUPPORTED),
        (14, 0, &[0; 16], 0, UNSUPPORTED),
        (u32::MAX, 0, &sector, 512, UNSUPPORTED),
        (kind::DISCARD, 0, &[0; 15], 0, IO_ERROR),
        (kind::WRITE_ZEROES, 0, &[0; 32], 0, IO_ERROR),
    ];
    for layout in [Layout::Plain, Layout::Joined, Layout::Cut, Layout::Indirect] {
        guest.layout = layout;
        for (kind, sector, output, input, expected) in cases {
            let answer = guest.ask(kind, sector, output, input);
            assert_eq!(answer.status, expected, "{kind} {sector}");
            assert!(answer.data.iter().all(|byte| *byte == 0xee));
        }
        for (kind, sector, sectors, flags, expected) in [
            (kind::DISCARD, 64, 1, 0, IO_ERROR),
            (kind::DISCARD, u64::MAX, 1, 0, IO_ERROR),
            (kind::DISCARD, 0, u32::MAX, 0, IO_ERROR),
            (kind::DISCARD, 0, 1, 1, UNSUPPORTED),
            (kind::WRITE_ZEROES, 63, 2, 0, IO_ERROR),
            (kind::WRITE_ZEROES, 0, 1, 2, UNSUPPORTED),
        ] {
            let bytes = range(sector, sectors, flags);
            assert_eq!(guest.tell(kind, 0, &bytes), expected);
        }
        // A good range before a bad one has no effect.
        let ranges = [range(0, 8, 0), range(64, 1, 0)].concat();
        assert_eq!(guest.tell(kind::DISCARD, 0, &ranges), IO_ERROR);
        assert_unchanged(&file);
    }
    guest.assert_served();
}

#[test]
fn a_loop_ends_with_as_many_descriptors_as_the_queue_has() {
    let (file, _host, mut guest) = disk();
    let memory = guest.driver.memory.allocate(4096).unwrap();
    write(&guest, memory);
    // The header, and then the same page over and over.
    submit(
        &mut guest,
        &[
            (5, descriptor(memory, 16, F_NEXT, 6)),
            (6, descriptor(memory + 1024, 1024, F_WRITE | F_NEXT, 6)),
        ],
    );
    assert_unchanged(&file);
    guest.assert_served();
}

#[test]
fn a_queue_with_nonsense_in_its_ring_rests_until_it_is_started_anew() {
    let (_file, _host, mut guest) = disk();
    guest.assert_served();
    for jump in [129, 1000, 0x8000, 0xffff] {
        let queue = &mut guest.driver.queues[0];
        let index = queue.available_index();
        queue.set_available_index(index.wrapping_add(jump)).unwrap();
        queue.kick_anyway().unwrap();
        // Stopping waits for the device's turn, so what it does with the nonsense is done.
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(guest.driver.frontend.stop_ring(0).unwrap(), index);
        guest.driver.queues[0].set_available_index(index).unwrap();
        guest.driver.start_queue(0, index).unwrap();
        guest.assert_served();
    }
}

#[test]
fn a_head_out_of_range_does_not_end_the_device() {
    let (_file, _host, mut guest) = disk();
    for head in [128, 1000, u16::MAX] {
        let queue = &mut guest.driver.queues[0];
        let index = queue.available_index();
        queue.publish(head).unwrap();
        queue.kick_anyway().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        guest.driver.frontend.stop_ring(0).unwrap();
        guest.driver.queues[0].set_available_index(index).unwrap();
        guest.driver.start_queue(0, index).unwrap();
        guest.assert_served();
    }
}

#[test]
fn a_front_end_that_vanishes_ends_the_device() {
    let (_file, host, mut guest) = disk();
    guest.assert_served();
    drop(guest);
    host.socket.shutdown(std::net::Shutdown::Both).unwrap();
    host.end().unwrap();
}

/// A descriptor that mostly points into the room.
fn any_descriptor(room: u64) -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![4 => room..room + 4096, 1 => any::<u64>()];
    let length =
        prop_oneof![2 => Just(16_u32), 4 => 0..2048_u32, 2 => Just(512_u32), 1 => any::<u32>()];
    let next = prop_oneof![8 => 0..16_u16, 1 => any::<u16>()];
    (address, length, 0..8_u16, next)
        .prop_map(|(address, length, flags, next)| descriptor(address, length, flags, next))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn random_descriptors_leave_the_device_serving_and_the_file_as_long_as_it_was(
        table in proptest::collection::vec(any_descriptor(BASE + 0x80_0000), 16),
        bytes in proptest::collection::vec(any::<u8>(), 256),
        code in prop_oneof![Just(0_u32), Just(1), Just(4), Just(8), Just(11), Just(13)],
        sector in prop_oneof![0..64_u64, any::<u64>()],
    ) {
        let (file, _host, mut guest) = disk();
        let room = BASE + 0x80_0000;
        for at in (0..4096).step_by(bytes.len()) {
            guest.driver.memory.write(room + at, &bytes).unwrap();
        }
        for at in (0..4096).step_by(512) {
            let header = Header { kind: code, sector };
            guest.driver.memory.write(room + at, &header.encode()).unwrap();
        }
        for (index, descriptor) in (0..).zip(table) {
            guest.driver.queues[0].write_descriptor(index, descriptor).unwrap();
        }
        for head in 0..16 {
            let queue = &mut guest.driver.queues[0];
            queue.expect_head(head);
            queue.publish(head).unwrap();
        }
        guest.driver.queues[0].kick_anyway().unwrap();
        for _ in 0..16 {
            guest.driver.queues[0].wait(PATIENCE).unwrap();
        }
        guest.assert_served();
        prop_assert_eq!(file.metadata().unwrap().len(), 64 * 512);
    }
}
