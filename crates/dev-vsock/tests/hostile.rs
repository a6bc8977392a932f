//! Malicious traffic: nonsense costs its sender, and the device goes on.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;

use std::io::{Read, Write};
use std::time::Duration;

use dev_vsock::request::{HOST_CID, Header, Op, SHUTDOWN_SEND, TYPE_STREAM};
use guest::{CID, Guest, Host, Layout, PATIENCE, PORT};
use proptest::prelude::*;
use vq_driver::{BASE, Descriptor, F_INDIRECT, F_NEXT, F_WRITE};

/// Puts a chain that starts at descriptor `head` into a queue by hand, and waits for its return.
fn submit(guest: &mut Guest, queue: usize, head: u16, chain: &[(u16, Descriptor)]) -> u32 {
    guest.settle();
    let queue = &mut guest.driver.queues[queue];
    for (index, descriptor) in chain {
        queue.write_descriptor(*index, *descriptor).unwrap();
    }
    queue.expect_head(head);
    queue.publish(head).unwrap();
    queue.kick_anyway().unwrap();
    let used = queue.wait(PATIENCE).unwrap();
    assert_eq!(used.head, head);
    used.written
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address,
        length,
        flags,
        next,
    }
}

#[test]
fn malformed_transmit_chains_are_returned_and_dropped() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let memory = guest.driver.memory.allocate(4096).unwrap();
    let end = BASE + guest.driver.memory.size() as u64;
    let top = u64::MAX - 10;
    let cases: &[(&str, &[(u16, Descriptor)])] = &[
        ("a loop of one", &[(5, descriptor(memory, 10, F_NEXT, 5))]),
        (
            "a loop of two",
            &[
                (5, descriptor(memory, 44, F_NEXT, 6)),
                (6, descriptor(memory, 44, F_NEXT, 5)),
            ],
        ),
        (
            "next out of range",
            &[(5, descriptor(memory, 10, F_NEXT, 60_000))],
        ),
        ("too short", &[(5, descriptor(memory, 43, 0, 0))]),
        ("empty", &[(5, descriptor(memory, 0, 0, 0))]),
        (
            "device-writable",
            &[(5, descriptor(memory, 100, F_WRITE, 0))],
        ),
        ("below memory", &[(5, descriptor(0, 100, 0, 0))]),
        (
            "across the end of memory",
            &[(5, descriptor(end - 20, 100, 0, 0))],
        ),
        (
            "at the end of the address space",
            &[(5, descriptor(top, 100, 0, 0))],
        ),
        ("4 GiB long", &[(5, descriptor(memory, u32::MAX, 0, 0))]),
        (
            "more than 4 GiB in sum",
            &[
                (5, descriptor(memory, u32::MAX, F_NEXT, 6)),
                (6, descriptor(memory, u32::MAX, F_NEXT, 7)),
                (7, descriptor(memory, u32::MAX, 0, 0)),
            ],
        ),
        (
            "an indirect table outside",
            &[(5, descriptor(end, 32, F_INDIRECT, 0))],
        ),
        (
            "an indirect table of odd length",
            &[(5, descriptor(memory, 17, F_INDIRECT, 0))],
        ),
        (
            "an empty indirect table",
            &[(5, descriptor(memory, 0, F_INDIRECT, 0))],
        ),
        (
            "an indirect table with a next",
            &[(5, descriptor(memory, 16, F_INDIRECT | F_NEXT, 5))],
        ),
    ];
    for (name, chain) in cases {
        assert_eq!(submit(&mut guest, 1, 5, chain), 0, "{name}");
        guest.assert_served(&host, 1000);
    }
}

#[test]
fn an_indirect_table_within_an_indirect_table_is_dropped() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let table = guest.driver.memory.allocate(4096).unwrap();
    // A descriptor that says "this table again".
    let mut bytes = table.to_le_bytes().to_vec();
    bytes.extend(16u32.to_le_bytes());
    bytes.extend(F_INDIRECT.to_le_bytes());
    bytes.extend(0u16.to_le_bytes());
    guest.driver.memory.write(table, &bytes).unwrap();
    assert_eq!(
        submit(
            &mut guest,
            1,
            5,
            &[(5, descriptor(table, 16, F_INDIRECT, 0))]
        ),
        0
    );
    guest.assert_served(&host, 1000);
}

#[test]
fn receive_buffers_that_cannot_be_written_are_returned_empty() {
    let host = Host::start();
    // No good buffer is there, so what the device wants to send meets the bad ones first.
    let mut guest = Guest::start(&host);
    let _waiting: Vec<_> = (0..32).map(|port| host.connect(port)).collect();
    for _ in 0..32 {
        guest.driver.queues[0].wait(PATIENCE).unwrap();
    }
    let _thirsty = host.connect(99);
    let memory = guest.driver.memory.allocate(4096).unwrap();
    for bad in [
        descriptor(memory, 4096, 0, 0),
        descriptor(memory, 44, F_WRITE, 0),
        descriptor(0, 4096, F_WRITE, 0),
        descriptor(memory, u32::MAX, F_WRITE, 0),
    ] {
        assert_eq!(submit(&mut guest, 0, 9, &[(9, bad)]), 0, "{bad:?}");
    }
    // A loop ends after as many descriptors as the queue has; the guest hurts its own memory.
    let enough = descriptor(memory, 4096, F_WRITE | F_NEXT, 9);
    assert_eq!(submit(&mut guest, 0, 9, &[(9, enough)]), 44);
}

#[test]
fn a_queue_with_nonsense_in_its_ring_rests_until_it_is_started_anew() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    guest.assert_served(&host, 1);
    for jump in [129, 1000, 0x8000, 0xffff] {
        guest.settle();
        let index = guest.driver.queues[1].available_index();
        let queue = &mut guest.driver.queues[1];
        queue.set_available_index(index.wrapping_add(jump)).unwrap();
        queue.kick_anyway().unwrap();
        // Stopping waits for the device's turn, so what it does with the nonsense is done.
        std::thread::sleep(Duration::from_millis(20));
        let base = guest.driver.frontend.stop_ring(1).unwrap();
        assert_eq!(base, index);
        guest.driver.queues[1].set_available_index(index).unwrap();
        guest.driver.start_queue(1, index).unwrap();
        guest.assert_served(&host, 2);
    }
}

#[test]
fn a_head_out_of_range_does_not_end_the_device() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    for head in [128, 1000, u16::MAX] {
        guest.settle();
        let queue = &mut guest.driver.queues[1];
        let index = queue.available_index();
        queue.publish(head).unwrap();
        queue.kick_anyway().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        guest.driver.frontend.stop_ring(1).unwrap();
        guest.driver.queues[1].set_available_index(index).unwrap();
        guest.driver.start_queue(1, index).unwrap();
        guest.assert_served(&host, 2);
    }
}

#[test]
fn packets_from_or_to_other_contexts_reach_nobody() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let header = guest.header(Op::Request, PORT, 1);
    guest.send_raw(
        &Header {
            src_cid: CID + 1,
            ..header
        },
        &[],
    );
    guest.send_raw(
        &Header {
            src_cid: HOST_CID,
            ..header
        },
        &[],
    );
    guest.expect_silence();
    guest.send_raw(
        &Header {
            dst_cid: 1,
            ..header
        },
        &[],
    );
    // The answer comes from where the packet went.
    let used = guest.driver.queues[0].wait(PATIENCE).unwrap();
    assert_eq!(used.written, 44);
    assert!(host.accepted.try_recv().is_err());
}

#[test]
fn an_unknown_operation_resets_its_connection_and_no_other() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut bad = host.connect(1);
    let (bad_host, bad_guest) = guest.accept();
    let mut good = host.connect(2);
    let (good_host, good_guest) = guest.accept();
    for op in [0, 8, 999] {
        let header = guest.header(Op::Data, bad_host, bad_guest);
        guest.send_raw(&Header { op, ..header }, &[]);
        guest.expect_reset_of(bad_host);
    }
    assert_eq!(bad.read(&mut [0; 4]).unwrap(), 0);
    guest.send_data(good_host, good_guest, b"fine");
    good.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn another_type_of_socket_is_refused() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let header = guest.header(Op::Request, PORT, 1);
    guest.send_raw(&Header { kind: 2, ..header }, &[]);
    let (reset, _) = guest.expect(Op::Reset);
    assert_eq!(reset.kind, 2);
    assert_ne!(reset.kind, TYPE_STREAM);
}

#[test]
fn more_data_than_credit_resets_the_connection() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let stalled = host.connect(1);
    let (host_port, guest_port) = guest.accept();
    let chunk = vec![0; 64 * 1024];
    // The socket takes some, the device's buffer 256 KiB; 4 MiB is more than both.
    for _ in 0..64 {
        guest.send_data(host_port, guest_port, &chunk);
    }
    guest.expect_reset_of(host_port);
    guest.arrived.clear();
    drop(stalled);
    while guest.receive_within(Duration::from_millis(50)).is_some() {}
    guest.assert_served(&host, 2);
}

#[test]
fn data_without_a_connection_is_reset() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    guest.send_data(5000, 1, b"hello?");
    guest.expect_reset_of(5000);
    guest.send(Op::Response, 5001, 1);
    guest.expect_reset_of(5001);
    guest.send(Op::Reset, 5002, 1);
    guest.expect_silence();
}

#[test]
fn data_before_the_response_or_after_the_end_is_reset() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(1);
    let (header, _) = guest.expect(Op::Request);
    guest.send_data(header.src_port, 1, b"too soon");
    guest.expect_reset_of(header.src_port);
    assert_eq!(stream.read(&mut [0; 4]).unwrap(), 0);

    let _stream = host.connect(2);
    let (host_port, guest_port) = guest.accept();
    guest.send_shutdown(host_port, guest_port, SHUTDOWN_SEND);
    guest.send_data(host_port, guest_port, b"too late");
    guest.expect_reset_of(host_port);
}

#[test]
fn a_second_request_for_the_same_connection_resets_it() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    guest.connect(PORT, 1);
    let mut stream = host.accept();
    guest.send(Op::Request, PORT, 1);
    guest.expect_reset_of(PORT);
    assert_eq!(stream.read(&mut [0; 4]).unwrap(), 0);
}

#[test]
fn a_forwarded_count_from_the_future_gives_no_credit() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(1);
    let (host_port, guest_port) = guest.accept();
    let header = guest.header(Op::CreditUpdate, host_port, guest_port);
    guest.send_raw(
        &Header {
            fwd_cnt: 0x8000_0000,
            ..header
        },
        &[],
    );
    std::thread::sleep(Duration::from_millis(20));
    stream.write_all(b"held back").unwrap();
    guest.expect_silence();
    guest.send(Op::CreditUpdate, host_port, guest_port);
    assert_eq!(guest.expect(Op::Data).1, b"held back");
}

#[test]
fn a_guest_that_wants_answers_without_giving_buffers_waits_for_itself() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    // 32 buffers, then a queue of 256 resets, then the device stops reading.
    let mut sent = 0u32;
    while guest.driver.queues[1].room() > 0 && sent < 2000 {
        let header = guest.header(Op::Data, 9000 + sent, 1);
        let address = guest.driver.memory.allocate(64).unwrap();
        guest
            .driver
            .memory
            .write(address, &header.encode())
            .unwrap();
        let queue = &mut guest.driver.queues[1];
        queue
            .add(&[vq_driver::Buffer::readable(address, 44)])
            .unwrap();
        queue.kick().unwrap();
        sent += 1;
        if queue.room() == 0 {
            std::thread::sleep(Duration::from_millis(20));
            while queue.used().unwrap().is_some() {}
        }
    }
    assert!((256..600).contains(&sent), "{sent}");
    // Given buffers, it answers every single one.
    for number in 0..sent {
        assert_eq!(guest.expect(Op::Reset).0.src_port, 9000 + number);
    }
}

#[test]
fn connections_beyond_the_limit_are_refused_and_the_others_stay() {
    raise_open_files();
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut streams = Vec::new();
    let mut refused = 0;
    for port in 0..4200u32 {
        guest.send(Op::Request, PORT, 10_000 + port);
        let (header, _) = guest.receive();
        if header.op == Op::Response as u16 {
            streams.push(host.accept());
        } else {
            assert_eq!(header.op, Op::Reset as u16);
            refused += 1;
        }
    }
    assert_eq!((streams.len(), refused), (4096, 104));
    // The host's own are refused too, by an end.
    assert_eq!(host.connect(1).read(&mut [0; 1]).unwrap(), 0);
    streams[4095].write_all(b"alive").unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"alive");
}

#[test]
fn connections_that_nobody_takes_are_refused() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut answers = (0, 0);
    for port in 0..100 {
        guest.send(Op::Request, PORT, 10_000 + port);
        match guest.receive().0.op {
            2 => answers.0 += 1,
            _ => answers.1 += 1,
        }
    }
    assert_eq!(answers, (64, 36));
}

#[test]
fn garbage_from_the_front_end_ends_the_device_with_a_reason() {
    let host = Host::start();
    let guest = Guest::start(&host);
    guest
        .driver
        .frontend
        .send_raw(4711, 0, &[1; 16], &[])
        .unwrap();
    let error = host.end().unwrap_err();
    assert!(
        matches!(error, device::serve::Error::Protocol(_)),
        "{error}"
    );
}

#[test]
fn rings_outside_of_memory_are_refused() {
    let host = Host::start();
    let guest = Guest::start(&host);
    let mut address = guest.driver.queues[1].address();
    address.used = 0;
    assert!(guest.driver.frontend.set_ring_address(1, address).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_packets_leave_the_device_serving(
        packets in proptest::collection::vec(
            (0u16..10, 0u32..4, 0u32..4, any::<u32>(), any::<u32>(), any::<u32>(), 0usize..200),
            1..60,
        )
    ) {
        let host = Host::start();
        let mut guest = Guest::start_with(&host, Layout::Scattered, 1000);
        let streams: Vec<_> = (0..3).map(|port| host.connect(port)).collect();
        for (op, host_port, guest_port, flags, buf_alloc, fwd_cnt, length) in packets {
            let header = Header {
                src_cid: CID,
                dst_cid: HOST_CID,
                src_port: guest_port,
                dst_port: if host_port < 3 { (1 << 30) + host_port } else { PORT },
                len: length as u32,
                kind: TYPE_STREAM,
                op,
                flags,
                buf_alloc,
                fwd_cnt,
            };
            guest.send_raw(&header, &vec![0; length]);
        }
        // The guest's view of credit is as random as the packets: look at nothing but the rings.
        for _ in 0..200 {
            if guest.driver.queues[1].wait(Duration::from_millis(1)).is_err() {
                break;
            }
        }
        prop_assert!(guest.driver.frontend.config(0, 8).is_ok());
        guest.driver.frontend.stop_ring(1).unwrap();
        guest.vanish();
        drop(streams);
        host.end().unwrap();
    }

    #[test]
    fn random_descriptors_leave_the_device_serving(
        table in proptest::collection::vec((any::<u64>(), any::<u32>(), 0u16..8, 0u16..130), 16),
        near in any::<bool>(),
        heads in proptest::collection::vec(0u16..16, 1..40),
    ) {
        let host = Host::start();
        let mut guest = Guest::start(&host);
        for (index, (address, length, flags, next)) in (0u16..).zip(table) {
            let (address, length) = if near {
                (BASE + address % (64 << 20), length % 100_000)
            } else {
                (address, length)
            };
            let queue = &guest.driver.queues[1];
            queue.write_descriptor(index, descriptor(address, length, flags, next % 20)).unwrap();
        }
        for head in heads {
            guest.driver.queues[1].publish(head).unwrap();
        }
        guest.driver.queues[1].kick_anyway().unwrap();
        std::thread::sleep(Duration::from_millis(2));
        prop_assert!(guest.driver.frontend.config(0, 8).is_ok());
        guest.vanish();
        host.end().unwrap();
    }
}

fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
