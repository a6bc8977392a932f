//! Correct traffic over real rings.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use dev_vsock::request::{Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use guest::{CID, Guest, Host, Layout, PORT};
use vq_driver::Setup;

const BOTH: u32 = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;

/// Byte `at` of a stream that no shift, loss or repetition leaves unchanged.
fn pattern(seed: u64, at: u64) -> u8 {
    let mixed = (at / 8 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (at % 8 * 8)) as u8
}

fn fill(seed: u64, at: u64, bytes: &mut [u8]) {
    for (offset, byte) in bytes.iter_mut().enumerate() {
        *byte = pattern(seed, at + offset as u64);
    }
}

fn check(seed: u64, at: u64, bytes: &[u8]) {
    for (offset, byte) in bytes.iter().enumerate() {
        assert_eq!(
            *byte,
            pattern(seed, at + offset as u64),
            "byte {}",
            at + offset as u64
        );
    }
}

#[test]
fn the_configuration_space_holds_the_guest_cid_and_zeroes_behind_it() {
    let host = Host::start();
    let guest = Guest::start(&host);
    assert_eq!(
        guest.driver.frontend.config(0, 8).unwrap(),
        CID.to_le_bytes()
    );
    assert_eq!(guest.driver.frontend.config(4, 8).unwrap(), [0; 8]);
    assert_eq!(guest.driver.frontend.config(100, 8).unwrap(), [0; 8]);
    assert_eq!(guest.driver.frontend.queue_count().unwrap(), 3);
}

#[test]
fn a_connection_of_the_host_carries_bytes_both_ways_in_every_layout() {
    for layout in [Layout::Single, Layout::Split, Layout::Scattered] {
        let host = Host::start();
        let mut guest = Guest::start_with(&host, layout, 4096 + 44);
        let mut stream = host.connect(1024);
        let (host_port, guest_port) = guest.accept();
        assert_eq!(guest_port, 1024);
        stream.write_all(b"to the guest").unwrap();
        assert_eq!(guest.expect(Op::Data).1, b"to the guest");
        guest.send_data(host_port, guest_port, b"to the host");
        let mut answer = [0; 11];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"to the host", "{layout:?}");
    }
}

#[test]
fn a_ring_without_event_index_and_indirect_descriptors_works() {
    let host = Host::start();
    let setup = Setup {
        features: 0,
        queues: &[64, 64, 8],
        ..Setup::default()
    };
    let mut guest = Guest::start_setup(&host, &setup, Layout::Split, 2000);
    for port in 1..20 {
        guest.assert_served(&host, port);
    }
}

#[test]
fn a_connection_asked_for_before_the_driver_is_ready_waits_for_it() {
    let host = Host::start();
    let mut stream = host.connect(5);
    stream.write_all(b"early").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let mut guest = Guest::start(&host);
    guest.accept();
    assert_eq!(guest.expect(Op::Data).1, b"early");
}

#[test]
fn a_connection_that_the_guest_refuses_ends_the_stream() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(9);
    let (header, _) = guest.expect(Op::Request);
    guest.send(Op::Reset, header.src_port, header.dst_port);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    guest.expect_silence();
}

#[test]
fn the_guest_connects_to_a_listed_port_and_to_no_other() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    guest.connect(PORT, 3000);
    let mut stream = host.accept();
    guest.send_data(PORT, 3000, b"ready");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"ready");
    guest.send(Op::Request, PORT + 1, 3001);
    let (header, _) = guest.expect(Op::Reset);
    assert_eq!((header.src_port, header.dst_port), (PORT + 1, 3001));
    assert!(host.accepted.try_recv().is_err());
}

#[test]
fn the_host_ending_its_direction_leaves_the_other_open() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(7);
    let (host_port, guest_port) = guest.accept();
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"last words");
    assert_eq!(guest.expect(Op::Shutdown).0.flags, SHUTDOWN_SEND);
    guest.send_data(host_port, guest_port, b"answer");
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    guest.send_shutdown(host_port, guest_port, BOTH);
    guest.expect_reset_of(host_port);
    assert_eq!(stream.read(&mut answer).unwrap(), 0);
}

#[test]
fn the_guest_ending_its_direction_leaves_the_other_open() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(7);
    let (host_port, guest_port) = guest.accept();
    guest.send_data(host_port, guest_port, b"last words");
    guest.send_shutdown(host_port, guest_port, SHUTDOWN_SEND);
    let mut words = Vec::new();
    stream.read_to_end(&mut words).unwrap();
    assert_eq!(words, b"last words");
    stream.write_all(b"answer").unwrap();
    assert_eq!(guest.expect(Op::Data).1, b"answer");
}

#[test]
fn a_guest_that_receives_no_more_breaks_the_host_s_pipe() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(7);
    let (host_port, guest_port) = guest.accept();
    guest.send_shutdown(host_port, guest_port, SHUTDOWN_RECEIVE);
    guest.send_data(host_port, guest_port, b"!");
    stream.read_exact(&mut [0]).unwrap();
    let error = stream.write_all(b"unwanted").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn a_host_that_closes_ends_both_directions_for_the_guest() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(7);
    let (host_port, guest_port) = guest.accept();
    stream.write_all(b"bye").unwrap();
    drop(stream);
    // The guest may learn of the two directions together or one after the other.
    let mut data = Vec::new();
    loop {
        let (header, bytes) = guest.receive();
        data.extend(bytes);
        if header.op == Op::Shutdown as u16 && header.flags == BOTH {
            break;
        }
    }
    assert_eq!(data, b"bye");
    guest.send(Op::Reset, host_port, guest_port);
    guest.assert_served(&host, 8);
}

#[test]
fn what_the_guest_sent_before_it_closed_reaches_a_slow_reader() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    guest.connect(PORT, 1);
    let mut stream = host.accept();
    let mut sent = 0;
    let mut chunk = vec![0; 16 * 1024];
    while guest.credit(PORT, 1) >= chunk.len() && sent < 8 << 20 {
        fill(1, sent, &mut chunk);
        guest.send_data(PORT, 1, &chunk);
        sent += chunk.len() as u64;
        std::thread::sleep(Duration::from_millis(2));
        guest.poll();
    }
    guest.send_shutdown(PORT, 1, BOTH);
    guest.expect_reset_of(PORT);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len() as u64, sent);
    assert!(sent > 256 * 1024, "the reader was not slow enough: {sent}");
    check(1, 0, &all);
}

#[test]
fn credit_is_told_when_asked_for() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let _stream = host.connect(7);
    let (host_port, guest_port) = guest.accept();
    guest.send(Op::CreditRequest, host_port, guest_port);
    let (header, _) = guest.expect(Op::CreditUpdate);
    assert!(header.buf_alloc >= 256 * 1024);
}

#[test]
fn the_device_sends_no_more_than_the_guest_has_room_for() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(7);
    let (header, _) = guest.expect(Op::Request);
    let (host_port, guest_port) = (header.src_port, header.dst_port);
    guest.header(Op::Response, host_port, guest_port);
    guest
        .connections
        .get_mut(&(host_port, guest_port))
        .unwrap()
        .buffer = 1000;
    guest.send(Op::Response, host_port, guest_port);
    stream.write_all(&[7; 5000]).unwrap();
    let mut received = 0;
    while received < 5000 {
        // The guest asserts that each packet is within its buffer.
        let (_, data) = guest.expect(Op::Data);
        received += data.len();
        guest.consumed(host_port, guest_port, data.len());
    }
    guest.expect_silence();
}

/// Moves `total` bytes each way over one connection; the guest's part runs here.
fn exchange(guest: &mut Guest, stream: UnixStream, ports: (u32, u32), total: u64) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = stream;
    let writing = std::thread::spawn(move || {
        let mut chunk = vec![0; 256 * 1024];
        let mut at = 0;
        while at < total {
            let length = chunk.len().min((total - at) as usize);
            fill(1, at, &mut chunk[..length]);
            writer.write_all(&chunk[..length]).unwrap();
            at += length as u64;
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let reading = std::thread::spawn(move || {
        let mut chunk = vec![0; 256 * 1024];
        let mut at = 0;
        loop {
            let count = reader.read(&mut chunk).unwrap();
            if count == 0 {
                break at;
            }
            check(2, at, &chunk[..count]);
            at += count as u64;
        }
    });
    let (host_port, guest_port) = ports;
    let (mut sent, mut received, mut ended) = (0, 0, false);
    let mut chunk = vec![0; 64 * 1024];
    while sent < total || !ended {
        let mut busy = false;
        let room = guest.credit(host_port, guest_port).min(chunk.len());
        let length = room.min((total - sent) as usize);
        if length == chunk.len() || (length > 0 && length as u64 == total - sent) {
            fill(2, sent, &mut chunk[..length]);
            guest.send_data(host_port, guest_port, &chunk[..length]);
            sent += length as u64;
            busy = true;
            if sent == total {
                guest.send_shutdown(host_port, guest_port, SHUTDOWN_SEND);
            }
        }
        if !busy && guest.arrived.is_empty() && !guest.poll() {
            let packet = guest.receive();
            guest.arrived.push_front(packet);
        }
        guest.poll();
        while let Some((header, data)) = guest.arrived.pop_front() {
            if header.op == Op::Data as u16 {
                check(1, received, &data);
                received += data.len() as u64;
                guest.consumed(host_port, guest_port, data.len());
            }
            ended |= header.op == Op::Shutdown as u16 && header.flags & SHUTDOWN_SEND != 0;
        }
    }
    writing.join().unwrap();
    assert_eq!(received, total);
    assert_eq!(reading.join().unwrap(), total);
}

#[test]
fn a_hundred_megabytes_each_way_arrive_byte_for_byte() {
    let host = Host::start();
    let mut guest = Guest::start_with(&host, Layout::Split, 4096 + 44);
    let stream = host.connect(7);
    let ports = guest.accept();
    exchange(&mut guest, stream, ports, 100 << 20);
}

#[test]
fn large_receive_buffers_are_filled() {
    let host = Host::start();
    let mut guest = Guest::start_with(&host, Layout::Scattered, 64 * 1024 + 44);
    let stream = host.connect(7);
    let ports = guest.accept();
    exchange(&mut guest, stream, ports, 16 << 20);
    assert!(
        guest.packets_received < 3000,
        "{} packets",
        guest.packets_received
    );
}

#[test]
fn a_ring_that_is_stopped_and_started_goes_on_where_it_was() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(7);
    let (host_port, guest_port) = guest.accept();
    for round in 0..20u8 {
        guest.settle();
        let bases = [0, 1].map(|queue| guest.driver.frontend.stop_ring(queue).unwrap());
        guest.poll();
        for (base, queue) in bases.iter().zip(&guest.driver.queues) {
            // In order: what was taken is what was returned.
            assert_eq!(*base, queue.used_index());
        }
        stream.write_all(&[round]).unwrap();
        for (queue, base) in (0..).zip(bases) {
            guest.driver.start_queue(queue, base).unwrap();
        }
        assert_eq!(guest.expect(Op::Data).1, [round]);
        let mut byte = [0];
        guest.send_data(host_port, guest_port, &[round]);
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round]);
    }
}

#[test]
fn a_guest_that_restarts_ends_its_connections_and_may_make_new_ones() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    for _ in 0..5 {
        let mut old = host.connect(7);
        guest.accept();
        guest.connect(PORT, 8);
        let mut accepted = host.accept();
        guest = guest.reboot();
        assert_eq!(old.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(accepted.read(&mut [0; 1]).unwrap(), 0);
        guest.assert_served(&host, 9);
        // What the end of that connection brings.
        while guest.receive_within(Duration::from_millis(50)).is_some() {}
    }
}

#[test]
fn a_queue_that_starts_after_the_others_are_in_use_is_no_new_driver() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    for index in 0..3u8 {
        guest.driver.frontend.stop_ring(index.into()).unwrap();
        guest.driver.queues[usize::from(index)].reset().unwrap();
    }
    guest.driver.start_queue(0, 0).unwrap();
    let Guest { driver, layout, .. } = guest;
    let mut guest = Guest::over(driver, layout, 4096 + 44);
    let mut stream = host.connect(7);
    let (header, _) = guest.expect(Op::Request);
    guest.driver.start_queue(1, 0).unwrap();
    guest.send(Op::Response, header.src_port, header.dst_port);
    guest.driver.start_queue(2, 0).unwrap();
    guest.send_data(header.src_port, header.dst_port, b"x");
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn a_thousand_connections_are_served_at_once() {
    raise_open_files();
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut streams = Vec::new();
    for number in 0..1000u32 {
        streams.push(host.connect(number));
    }
    let mut ports = vec![None; 1000];
    for _ in 0..1000 {
        let (host_port, guest_port) = guest.accept();
        assert!(ports[guest_port as usize].replace(host_port).is_none());
    }
    for (number, mut stream) in (0u32..).zip(&streams) {
        stream.write_all(&number.to_le_bytes()).unwrap();
    }
    for _ in 0..1000 {
        let (header, data) = guest.expect(Op::Data);
        assert_eq!(data, header.dst_port.to_le_bytes());
        guest.send_data(header.src_port, header.dst_port, &data);
    }
    for (number, mut stream) in (0u32..).zip(&streams) {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, number.to_le_bytes());
    }
}

#[test]
fn a_stalled_reader_delays_no_other_connection() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let stalled = host.connect(1);
    let (stalled_host, stalled_guest) = guest.accept();
    // Fill the stalled stream to the last byte of credit.
    let chunk = [0; 16 * 1024];
    let mut filled = 0;
    loop {
        std::thread::sleep(Duration::from_millis(2));
        guest.poll();
        let credit = guest.credit(stalled_host, stalled_guest).min(chunk.len());
        if credit == 0 {
            break;
        }
        guest.send_data(stalled_host, stalled_guest, &chunk[..credit]);
        filled += credit;
    }
    guest.arrived.clear();
    let stream = host.connect(2);
    let ports = guest.accept();
    exchange(&mut guest, stream, ports, 8 << 20);
    // And the stalled one has lost nothing.
    let mut reader = &stalled;
    let mut left = filled;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        left -= reader.read(&mut buffer).unwrap();
    }
}

#[test]
fn the_device_ends_when_the_front_end_vanishes_in_the_middle_of_traffic() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(1);
    let (host_port, guest_port) = guest.accept();
    let writing = std::thread::spawn(move || while stream.write_all(&[1; 65536]).is_ok() {});
    for _ in 0..8 {
        guest.send_data(host_port, guest_port, &[2; 1000]);
    }
    guest.vanish();
    host.end().unwrap();
    writing.join().unwrap();
}

fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
