//! The guest's TCP/IP is Linux': this machine's kernel in a network namespace, behind a TAP
//! device whose packets go through the device under test.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;
mod namespace;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use guest::{ALL, Guest, Host, PATIENCE, config, dialer};
use namespace::pump::Pump;
use namespace::{enter, ip, is_possible, offload, tap};
use wire::net::Tell;

/// Runs `test` on a thread whose kernel is the guest's.
fn in_guest(mtu: u16, test: impl FnOnce(&Host) + Send + 'static) {
    if !is_possible() {
        return;
    }
    let thread = thread::spawn(move || {
        let host = Host::start(config(mtu));
        dialer::serve(&host);
        enter();
        let tap = tap();
        offload(&tap);
        ip("link set tap0 address 02:00:00:00:00:15");
        ip(&format!("link set tap0 mtu {mtu} up"));
        ip("addr add 10.0.2.15/24 dev tap0");
        ip("addr add fd63:7275:6d62::15/64 dev tap0 nodad");
        ip("route add default via 10.0.2.2");
        ip("-6 route add default via fd63:7275:6d62::2");
        let guest = Guest::start(&host, ALL, 4096);
        let _pump = Pump::start(guest, tap);
        test(&host);
    });
    thread.join().unwrap();
}

/// A server where the host is.
fn listen(address: &str) -> TcpListener {
    let address = address.to_owned();
    on_host(move || TcpListener::bind(address).unwrap())
}

/// Does something with the host's network.
fn on_host<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(move || {
        // A thread begins where its creator is; the process's first one never left.
        let first = std::fs::File::open(format!("/proc/{}/ns/net", std::process::id())).unwrap();
        nix::sched::setns(first.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// Sends `bytes` to `from` and reads them at `to`.
#[track_caller]
fn passes(mut from: TcpStream, mut to: TcpStream, bytes: &[u8]) {
    let sending = bytes.to_vec();
    let sender = thread::spawn(move || {
        from.write_all(&sending).unwrap();
        from.shutdown(Shutdown::Write).unwrap();
        from
    });
    let mut received = Vec::new();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    to.read_to_end(&mut received).unwrap();
    assert!(
        received == bytes,
        "{} bytes of {}",
        received.len(),
        bytes.len()
    );
    sender.join().unwrap();
}

fn connected(listener: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
    let port = listener.local_addr().unwrap().port();
    let guest = TcpStream::connect((to, port)).unwrap();
    let (host, _) = listener.accept().unwrap();
    (guest, host)
}

#[test]
fn bytes_pass_both_ways_with_any_mtu() {
    for mtu in [1280, 1500, 65520] {
        in_guest(mtu, |_| {
            let bytes = pattern(48 << 20);
            let listener = listen("127.0.0.1:0");
            let (guest, host) = connected(&listener, "10.0.2.3");
            passes(guest, host, &bytes);
            let (guest, host) = connected(&listener, "10.0.2.3");
            passes(host, guest, &bytes);
        });
    }
}

#[test]
fn bytes_pass_both_ways_over_ipv6() {
    in_guest(65520, |_| {
        let bytes = pattern(16 << 20);
        let listener = listen("[::1]:0");
        let (guest, host) = connected(&listener, "fd63:7275:6d62::3");
        passes(guest, host, &bytes);
        let (guest, host) = connected(&listener, "fd63:7275:6d62::3");
        passes(host, guest, &bytes);
    });
}

#[test]
fn a_reader_that_pauses_loses_nothing() {
    in_guest(65520, |_| {
        let bytes = pattern(32 << 20);
        let listener = listen("127.0.0.1:0");
        for guest_reads in [true, false] {
            let (guest, host) = connected(&listener, "10.0.2.3");
            let (mut from, mut to) = if guest_reads {
                (host, guest)
            } else {
                (guest, host)
            };
            let sending = bytes.clone();
            let sender = thread::spawn(move || {
                from.write_all(&sending).unwrap();
                from.shutdown(Shutdown::Write).unwrap();
                from
            });
            let mut received = Vec::new();
            let mut piece = vec![0; 8 << 20];
            // Both windows are full long before this is over.
            thread::sleep(Duration::from_secs(2));
            loop {
                match to.read(&mut piece).unwrap() {
                    0 => break,
                    count => received.extend_from_slice(&piece[..count]),
                }
            }
            assert!(
                received == bytes,
                "{} bytes of {}",
                received.len(),
                bytes.len()
            );
            sender.join().unwrap();
        }
    });
}

#[test]
fn refused_is_refused() {
    in_guest(65520, |_| {
        let port = listen("127.0.0.1:0").local_addr().unwrap().port();
        for address in ["10.0.2.3", "10.0.2.2", "fd63:7275:6d62::3"] {
            let error = TcpStream::connect((address, port)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
        }
        // An address of the subnet that nobody has: known without waiting for ARP to give up.
        let begin = Instant::now();
        assert!(TcpStream::connect(("10.0.2.99", port)).is_err());
        assert!(begin.elapsed() < PATIENCE);
    });
}

#[test]
fn datagrams_are_answered_and_refused() {
    in_guest(1500, |_| {
        let server = on_host(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind("10.0.2.15:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(("10.0.2.3", port)).unwrap();
        // The second is in fragments on the guest's side.
        for length in [10, 9000] {
            let bytes = pattern(length);
            client.send(&bytes).unwrap();
            let mut buffer = vec![0; 10_000];
            let (count, peer) = server.recv_from(&mut buffer).unwrap();
            assert!(buffer[..count] == bytes);
            server.send_to(&bytes, peer).unwrap();
            let count = client.recv(&mut buffer).unwrap();
            assert!(buffer[..count] == bytes);
        }
        // Nobody has that port any more: the guest's kernel learns it.
        drop(server);
        client.send(b"anybody?").unwrap();
        let error = client.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_published_port_shows_who_connected() {
    in_guest(65520, |host| {
        let server = TcpListener::bind("10.0.2.15:8080").unwrap();
        let outside = listen("127.0.0.1:0");
        let address = outside.local_addr().unwrap();
        let mut client = on_host(move || TcpStream::connect(address).unwrap());
        let (accepted, peer) = outside.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let tell = Tell::Accepted { port: 8080, peer };
        host.streams.send(&tell, &[accepted.as_fd()]).unwrap();
        drop(accepted);
        let (mut stream, seen) = server.accept().unwrap();
        assert_eq!(seen.to_string(), format!("10.0.2.3:{}", peer.port()));
        client.write_all(b"ping").unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");
        drop(stream);
        assert_eq!(client.read(&mut bytes).unwrap(), 0);
    });
}

#[test]
fn a_reset_reaches_the_other_side() {
    in_guest(65520, |_| {
        let listener = listen("127.0.0.1:0");
        for guest_resets in [true, false] {
            let (guest, host) = connected(&listener, "10.0.2.3");
            let (one, mut other) = if guest_resets {
                (guest, host)
            } else {
                (host, guest)
            };
            other.write_all(b"unread").unwrap();
            let mut peeked = [0; 6];
            while one.peek(&mut peeked).unwrap() < 6 {}
            // Closed with something unread: a reset.
            drop(one);
            other.set_read_timeout(Some(PATIENCE)).unwrap();
            let error = other.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
}
