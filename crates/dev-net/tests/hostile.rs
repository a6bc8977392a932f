//! A guest, and a dialer, that send what they should not: the device goes on serving.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;
mod stack;

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use dev_net::header::Header;
use guest::frames::{self, GUEST, ROUTER, ethernet, ipv4, tcp, udp};
use guest::{ALL, Guest, Host, MAC, PATIENCE, config, dialer};
use nix::sys::socket::{MsgFlags, recv, send};
use proptest::prelude::*;
use smoltcp::socket::tcp::State;
use stack::Stack;
use vq_driver::{Buffer, Descriptor, F_NEXT};
use wire::net::{Ask, Failure, Tell};

const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn start() -> (Host, Guest) {
    let host = Host::start(config(1500));
    let guest = Guest::start(&host, ALL, 4096);
    (host, guest)
}

/// The device still answers.
#[track_caller]
fn is_alive(guest: &mut Guest) {
    let parts: [&[u8]; 5] = [
        &[0, 1, 8, 0, 6, 4, 0, 1],
        &MAC,
        &GUEST.octets(),
        &[0; 6],
        &ROUTER.octets(),
    ];
    guest.send(&Header::default(), &ethernet(0x806, &parts.concat()));
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let (_, frame) = guest.receive();
        if frame[12..14] == [8, 6] {
            return;
        }
    }
    panic!("the device does not answer");
}

/// A frame that is sound but for some of its bytes, and where it ends.
fn nearly_sound() -> impl Strategy<Value = Vec<u8>> {
    let to = SocketAddrV4::new(REMOTE, 80);
    let echo = [8, 0, 0xf7, 0xfe, 0, 0, 0, 1];
    let solicitation = [
        &[0x60, 0, 0, 0, 0, 24, 58, 255][..],
        &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
        &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2],
        &[135, 0, 0, 0, 0, 0, 0, 0],
        &[
            0xfd, 0x63, 0x72, 0x75, 0x6d, 0x62, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        ],
    ]
    .concat();
    let frames = vec![
        tcp(1000, to, 1, 0, SYN, b""),
        tcp(1000, to, 2, 1, ACK, &[1; 100]),
        udp(1000, to, &[1; 100]),
        udp(68, SocketAddrV4::new(ROUTER, 67), &[1; 300]),
        udp(
            1000,
            SocketAddrV4::new(ROUTER, 53),
            &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1],
        ),
        ipv4(REMOTE, 1, &echo, (0, 0)),
        ipv4(REMOTE, 17, &[2; 64], (1, 0x2000)),
        ethernet(0x86dd, &solicitation),
        ethernet(0x806, &[0, 1, 8, 0, 6, 4, 0, 1]),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (
        prop::sample::select(frames),
        changes,
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(mut frame, changes, end, cut)| {
            for (at, byte) in changes {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if cut {
                frame.truncate(end.index(frame.len()));
            }
            frame
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_leave_the_device_serving(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..40),
    ) {
        let (_host, mut guest) = start();
        for packet in packets {
            if guest.may_send() {
                guest.send_raw(&packet);
            }
        }
        guest.driver.queues[1].kick().unwrap();
        is_alive(&mut guest);
    }

    #[test]
    fn nearly_sound_packets_leave_the_device_serving(
        packets in prop::collection::vec((any::<[u8; 12]>(), any::<bool>(), nearly_sound()), 1..60),
    ) {
        let (host, mut guest) = start();
        dialer::serve_nobody(&host);
        for (header, plain, frame) in packets {
            let header = if plain { [0; 12] } else { header };
            if guest.may_send() {
                guest.send_raw(&[&header[..], &frame].concat());
            }
        }
        guest.driver.queues[1].kick().unwrap();
        is_alive(&mut guest);
    }

    #[test]
    fn any_walk_through_a_connection_leaves_the_device_serving(
        steps in prop::collection::vec(
            (0..64_u8, -3_i32..70_000, -3_i32..70_000, 0..3000_usize), 1..60),
    ) {
        let (host, mut guest) = start();
        dialer::serve(&host);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 3), listener.local_addr().unwrap().port());
        guest.send(&Header::default(), &tcp(1000, to, 100, 0, SYN, b""));
        let (_, answer) = guest.receive();
        let content = frames::read_ipv4(&answer).2;
        let theirs = u32::from_be_bytes(content[4..8].try_into().unwrap());
        guest.send(&Header::default(), &tcp(1000, to, 101, theirs + 1, ACK, b""));
        for (flags, seq, ack, length) in steps {
            let seq = 101_u32.wrapping_add_signed(seq);
            let ack = theirs.wrapping_add_signed(ack);
            guest.send(&Header::default(), &tcp(1000, to, seq, ack, flags, &vec![0; length]));
        }
        is_alive(&mut guest);
    }

    #[test]
    fn any_datagram_of_the_dialer_leaves_the_device_serving(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 1..20),
    ) {
        let (host, mut guest) = start();
        for datagram in &datagrams {
            send(host.datagrams.as_raw_fd(), datagram, MsgFlags::MSG_DONTWAIT).unwrap();
        }
        is_alive(&mut guest);
    }
}

#[test]
fn wrong_checksums_are_dropped() {
    let (host, mut guest) = start();
    let to = SocketAddrV4::new(REMOTE, 80);
    for mut frame in [udp(1000, to, b"secret"), tcp(1000, to, 1, 0, SYN, b"")] {
        let last = frame.len() - 3;
        frame[last] ^= 1;
        guest.send(&Header::default(), &frame);
    }
    is_alive(&mut guest);
    let mut buffer = [0; 1000];
    for socket in [host.datagrams.as_raw_fd(), host.streams.as_fd().as_raw_fd()] {
        assert!(recv(socket, &mut buffer, MsgFlags::MSG_DONTWAIT).is_err());
    }
}

#[test]
fn a_guest_speaks_for_no_other_address() {
    let (host, mut guest) = start();
    let mut frame = udp(1000, SocketAddrV4::new(REMOTE, 80), b"x");
    // The source becomes 10.0.3.15: one more there, one less in the checksums.
    frame[28] = 3;
    let ip = u16::from_be_bytes([frame[24], frame[25]]) - 0x100;
    frame[24..26].copy_from_slice(&ip.to_be_bytes());
    let transport = u16::from_be_bytes([frame[40], frame[41]]) - 0x100;
    frame[40..42].copy_from_slice(&transport.to_be_bytes());
    guest.send(&Header::default(), &frame);
    is_alive(&mut guest);
    let mut buffer = [0; 1000];
    assert!(
        recv(
            host.datagrams.as_raw_fd(),
            &mut buffer,
            MsgFlags::MSG_DONTWAIT
        )
        .is_err()
    );
}

#[test]
fn chains_outside_of_memory_are_given_back() {
    let (_host, mut guest) = start();
    let queue = &mut guest.driver.queues[1];
    let bad = Descriptor {
        address: u64::MAX - 10,
        length: 100,
        flags: 0,
        next: 0,
    };
    queue.write_descriptor(200, bad).unwrap();
    queue.expect_head(200);
    queue.publish(200).unwrap();
    queue.kick().unwrap();
    assert_eq!(queue.wait(PATIENCE).unwrap().head, 200);
    // A chain without an end.
    let endless = Descriptor {
        address: vq_driver::BASE,
        length: 16,
        flags: F_NEXT,
        next: 201,
    };
    queue.write_descriptor(201, endless).unwrap();
    queue.expect_head(201);
    queue.publish(201).unwrap();
    queue.kick().unwrap();
    assert_eq!(queue.wait(PATIENCE).unwrap().head, 201);
    is_alive(&mut guest);
}

#[test]
fn receive_buffers_of_no_use_are_given_back_empty() {
    let host = Host::start(config(1500));
    let mut guest = Guest::start(&host, ALL, 4096);
    let address = guest.driver.memory.allocate(64).unwrap();
    // One that cannot be written, behind the sound ones.
    let head = guest.driver.queues[0]
        .add(&[Buffer::readable(address, 64)])
        .unwrap();
    for _ in 0..240 {
        let frame = udp(1000, SocketAddrV4::new(ROUTER, 9), b"x");
        guest.send(&Header::default(), &frame);
    }
    let mut count = 0;
    let until = Instant::now() + PATIENCE;
    let useless = loop {
        match guest.driver.queues[0].used().unwrap() {
            Some(used) if used.head == head => break used,
            Some(_) => count += 1,
            None => {
                guest.driver.queues[1].kick_anyway().unwrap();
                let frame = udp(1000, SocketAddrV4::new(ROUTER, 9), b"x");
                guest.send(&Header::default(), &frame);
                assert!(Instant::now() < until, "{count}");
            }
        }
    };
    assert_eq!(useless.written, 0);
}

#[test]
fn a_flood_of_syns_is_bounded_and_leaves_others_alone() {
    let (host, mut guest) = start();
    let asks = host.streams.try_clone().unwrap();
    // A dialer that answers nothing but counts.
    let counter = thread::spawn(move || {
        let mut count = 0_u32;
        while let Ok(Some((Ask::Connect { .. }, _))) = asks.receive::<Ask>() {
            count += 1;
        }
        count
    });
    let to = SocketAddrV4::new(REMOTE, 80);
    for port in 1..=5000 {
        guest.send(&Header::default(), &tcp(port, to, 1, 0, SYN, b""));
    }
    is_alive(&mut guest);
    drop(guest);
    drop(host);
    let count = counter.join().unwrap();
    assert!((1..=1024).contains(&count), "{count}");
}

#[test]
fn resets_make_room_again() {
    let (host, mut guest) = start();
    let to = SocketAddrV4::new(REMOTE, 80);
    let asks = host.streams.try_clone().unwrap();
    let counter = thread::spawn(move || {
        let (mut connects, mut cancels) = (0_u32, 0_u32);
        while let Ok(Some((ask, _))) = asks.receive::<Ask>() {
            match ask {
                Ask::Connect { .. } => connects += 1,
                Ask::Cancel { .. } => cancels += 1,
            }
        }
        (connects, cancels)
    });
    for port in 1..=3000 {
        guest.send(&Header::default(), &tcp(port, to, 1, 0, SYN, b""));
        guest.send(&Header::default(), &tcp(port, to, 2, 0, RST, b""));
        if port % 100 == 0 {
            is_alive(&mut guest);
        }
    }
    drop(guest);
    drop(host);
    let (connects, cancels) = counter.join().unwrap();
    assert!(
        connects > 1024,
        "{connects} connections and {cancels} cancellations"
    );
}

#[test]
fn answers_to_nobody_and_for_nobody_are_ignored() {
    let (host, mut guest) = start();
    for tell in [
        Tell::Connected { id: 7 },
        Tell::Failed {
            id: 9,
            why: Failure::Refused,
        },
        Tell::Accepted {
            port: 80,
            peer: SocketAddrV4::new(REMOTE, 1).into(),
        },
    ] {
        host.streams.send(&tell, &[]).unwrap();
    }
    is_alive(&mut guest);
    // What is no message at all ends new connections, not the device.
    send(
        host.streams.as_fd().as_raw_fd(),
        &[0, 99, 99],
        MsgFlags::empty(),
    )
    .unwrap();
    is_alive(&mut guest);
}

#[test]
fn a_guest_that_gives_no_buffers_gets_its_packets_later() {
    let host = Host::start(config(1500));
    let mut guest = Guest::start(&host, ALL, 4096);
    let to = SocketAddrV4::new(ROUTER, 9);
    // More answers than the guest has buffers for.
    for _ in 0..400 {
        guest.send(&Header::default(), &udp(1000, to, b"x"));
    }
    for _ in 0..400 {
        guest.receive();
    }
    is_alive(&mut guest);
}

#[test]
fn a_window_of_nothing_is_probed_and_opens_again() {
    let (host, mut guest) = start();
    dialer::serve(&host);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 3), port);
    let with_window = |seq: u32, ack: u32, flags: u8, window: u16| {
        let mut frame = tcp(1000, to, seq, ack, flags, b"");
        frame[48..50].copy_from_slice(&window.to_be_bytes());
        let header = Header {
            checksum: Some((34, 16)),
            ..Header::default()
        };
        (header, frame)
    };
    let (header, frame) = with_window(100, 0, SYN, 0);
    guest.send(&header, &frame);
    let (_, answer) = guest.receive();
    let content = frames::read_ipv4(&answer).2.to_vec();
    let theirs = u32::from_be_bytes(content[4..8].try_into().unwrap());
    let (header, frame) = with_window(101, theirs + 1, ACK, 0);
    guest.send(&header, &frame);
    let (mut stream, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut stream, b"waiting").unwrap();
    // Before the window opens there are probes without data.
    let (_, probe) = guest.receive_within(Duration::from_secs(5)).unwrap();
    let content = frames::read_ipv4(&probe).2.to_vec();
    assert_eq!(content.len(), 20);
    assert_eq!(content[4..8], theirs.to_be_bytes());
    let (header, frame) = with_window(101, theirs + 1, ACK, 4);
    guest.send(&header, &frame);
    let (_, data) = guest.receive();
    assert_eq!(&frames::read_ipv4(&data).2[20..], b"wait");
}

#[test]
fn one_connection_that_stalls_does_not_stop_another() {
    let host = Host::start(config(65520));
    dialer::serve(&host);
    let guest = Guest::start(&host, ALL, 4096);
    let mut stack = Stack::new(guest, 65520, false);
    let address = std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let stalled = stack.connect(1 << 20, (address, port), 40_000);
    stack.await_state(stalled, State::Established);
    let (_never_read, _) = listener.accept().unwrap();
    let mut still = 0;
    stack.run("a stall", |stack| {
        let count = stack.tcp(stalled).send_slice(&[0; 65536]).unwrap();
        still = if count == 0 { still + 1 } else { 0 };
        still > 200
    });
    let other = stack.connect(65536, (address, port), 40_001);
    stack.await_state(other, State::Established);
    let (mut stream, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut stream, b"hello").unwrap();
    assert_eq!(stack.exchange(other, b"x", 5), b"hello");
}

#[test]
fn a_fin_storm_ends_every_connection() {
    let (host, mut guest) = start();
    dialer::serve(&host);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 3), port);
    for number in 0..50_u16 {
        guest.send(
            &Header::default(),
            &tcp(1000 + number, to, 100, 0, SYN, b""),
        );
        let answer = loop {
            let (_, frame) = guest.receive();
            let content = frames::read_ipv4(&frame).2.to_vec();
            if content[13] == SYN | ACK {
                break content;
            }
        };
        let theirs = u32::from_be_bytes(answer[4..8].try_into().unwrap());
        for _ in 0..5 {
            let fin = tcp(1000 + number, to, 101, theirs + 1, FIN | ACK, b"");
            guest.send(&Header::default(), &fin);
        }
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(std::io::Read::read(&mut stream, &mut [0; 1]).unwrap(), 0);
    }
    is_alive(&mut guest);
}

#[test]
fn the_third_repetition_of_an_acknowledgement_brings_the_missing_segment() {
    let (host, mut guest) = start();
    dialer::serve(&host);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = SocketAddrV4::new(
        Ipv4Addr::new(10, 0, 2, 3),
        listener.local_addr().unwrap().port(),
    );
    guest.send(&Header::default(), &tcp(1000, to, 100, 0, SYN, b""));
    let (_, answer) = guest.receive();
    let content = frames::read_ipv4(&answer).2.to_vec();
    let first = u32::from_be_bytes(content[4..8].try_into().unwrap()) + 1;
    let repeat = tcp(1000, to, 101, first, ACK, b"");
    guest.send(&Header::default(), &repeat);
    let (mut stream, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut stream, b"something").unwrap();
    let sequence = |frame: &[u8]| {
        let content = frames::read_ipv4(frame).2;
        (
            u32::from_be_bytes(content[4..8].try_into().unwrap()),
            content[20..].to_vec(),
        )
    };
    let (_, data) = guest.receive();
    assert_eq!(sequence(&data), (first, b"something".to_vec()));
    for _ in 0..3 {
        guest.send(&Header::default(), &repeat);
    }
    let (_, again) = guest.receive();
    assert_eq!(sequence(&again), (first, b"something".to_vec()));
    // What was acknowledged does not come again.
    guest.send(&Header::default(), &tcp(1000, to, 101, first + 9, ACK, b""));
    std::io::Write::write_all(&mut stream, b"more").unwrap();
    let (_, data) = guest.receive();
    assert_eq!(sequence(&data), (first + 9, b"more".to_vec()));
}
