//! The TAP back end, against the kernel of a network namespace.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;
mod namespace;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use dev_net::header::{Header, Segments, feature};
use dev_net::{Net, OtherEnd};
use device::serve::Server;
use guest::frames::{self, checksum, ethernet, pseudo, read_ipv4, udp};
use guest::{ALL, Guest, config};
use namespace::{enter, ip, is_possible, tap};
use wire::net::Backend;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

/// Runs `test` with a guest on a cable to this thread's kernel.
fn with_guest(features: u64, test: impl FnOnce(Guest) + Send + 'static) {
    with_buffers(features, 4096, test);
}

/// The same, whose guest has receive buffers of `size` bytes.
fn with_buffers(features: u64, size: u32, test: impl FnOnce(Guest) + Send + 'static) {
    if !is_possible() {
        return;
    }
    let thread = thread::spawn(move || {
        enter();
        let tap = tap();
        // Frames of the guest's go to this address.
        ip("link set tap0 address 02:63:72:75:6d:62");
        ip("link set tap0 mtu 1500 up");
        ip("addr add 10.0.2.1/24 dev tap0");
        ip("neigh add 10.0.2.15 lladdr 02:00:00:00:00:15 dev tap0");
        let socket = serve(tap);
        test(Guest::start_with(socket, features, size));
    });
    thread.join().unwrap();
}

fn serve(tap: OwnedFd) -> UnixStream {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = UnixStream::connect(&path).unwrap();
    let config = wire::net::Config {
        backend: Backend::Tap,
        ..config(1500)
    };
    let net = Net::build(config.try_into().unwrap(), OtherEnd::Tap(tap), None).unwrap();
    thread::spawn(move || Server::new(net, OwnedFd::from(listener)).and_then(Server::serve));
    socket
}

/// The next packet over IPv4 that is UDP.
#[track_caller]
fn datagram(guest: &mut Guest) -> (Header, Vec<u8>) {
    loop {
        let (header, frame) = guest.receive();
        if frame[12..14] == [8, 0] && frame[23] == 17 {
            return (header, frame);
        }
    }
}

#[test]
fn datagrams_pass_both_ways() {
    for features in [ALL, feature::MAC | feature::MRG_RXBUF, feature::MAC] {
        with_guest(features, |mut guest| {
            let host = UdpSocket::bind("10.0.2.1:4000").unwrap();
            host.set_read_timeout(Some(guest::PATIENCE)).unwrap();
            let to = SocketAddrV4::new(HOST, 4000);
            guest.send(&Header::default(), &udp(5000, to, b"hello"));
            let mut buffer = [0; 64];
            let (count, peer) = host.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"hello");
            assert_eq!(peer.to_string(), "10.0.2.15:5000");
            for number in 0..100_u8 {
                host.send_to(&[number; 700], peer).unwrap();
            }
            for number in 0..100_u8 {
                let (_, frame) = datagram(&mut guest);
                assert_eq!(read_ipv4(&frame).2[8..], [number; 700]);
            }
        });
    }
}

#[test]
fn packets_that_find_too_few_buffers_come_whole_when_there_are_more() {
    // The 240 buffers are enough for seven packets and a part of the eighth.
    with_buffers(ALL, 40, |mut guest| {
        let host = UdpSocket::bind("10.0.2.1:4000").unwrap();
        for number in 0..40_u8 {
            host.send_to(&[number; 1200], "10.0.2.15:5000").unwrap();
        }
        // The device has filled what there is before anything is taken back.
        let until = std::time::Instant::now() + guest::PATIENCE;
        while guest.driver.queues[0].device_index().unwrap() < 200 {
            assert!(std::time::Instant::now() < until, "nothing comes");
            thread::yield_now();
        }
        for number in 0..40_u8 {
            let (_, frame) = datagram(&mut guest);
            assert_eq!(read_ipv4(&frame).2[8..], [number; 1200]);
        }
    });
}

#[test]
fn checksums_are_complete_unless_the_guest_completes_them() {
    for (features, left) in [(ALL, true), (feature::MAC | feature::MRG_RXBUF, false)] {
        with_guest(features, move |mut guest| {
            let host = UdpSocket::bind("10.0.2.1:4000").unwrap();
            host.send_to(b"hello", "10.0.2.15:5000").unwrap();
            let (header, frame) = datagram(&mut guest);
            assert_eq!(header.checksum.is_some(), left);
            if !left {
                let (from, _, content) = read_ipv4(&frame);
                let sum = checksum(&[&pseudo(from, 17, content.len()), content]);
                assert_eq!(sum, [0, 0]);
            }
        });
    }
}

#[test]
fn large_segments_of_tcp_arrive_whole_where_the_guest_takes_them() {
    with_guest(ALL, |mut guest| {
        let listener = std::net::TcpListener::bind("10.0.2.1:80").unwrap();
        let to = SocketAddrV4::new(HOST, 80);
        let mut syn = frames::tcp(5000, to, 100, 0, 2, &[2, 4, 5, 0xb4]);
        // The four bytes are an option.
        syn[46] = 0x60;
        let partial = Header {
            checksum: Some((34, 16)),
            ..Header::default()
        };
        guest.send(&with_partial_sum(&partial, &mut syn), &syn);
        let (_, answer) = segment(&mut guest);
        let theirs = u32::from_be_bytes(answer[38..42].try_into().unwrap());
        let mut ack = frames::tcp(5000, to, 101, theirs.wrapping_add(1), 16, b"");
        guest.send(&with_partial_sum(&partial, &mut ack), &ack);
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, &[7; 10_000]).unwrap();
        let (header, frame) = segment(&mut guest);
        let (kind, size) = header.segments.unwrap();
        assert_eq!((kind, size), (Segments::Tcp4, 1460));
        assert!(frame.len() > 1514);
    });
}

/// The field of a partial checksum has the sum over the pseudo header.
fn with_partial_sum(header: &Header, frame: &mut [u8]) -> Header {
    let length = frame.len() - 34;
    let [high, low] = checksum(&[&pseudo(HOST, 6, length)]);
    frame[50..52].copy_from_slice(&[!high, !low]);
    *header
}

#[track_caller]
fn segment(guest: &mut Guest) -> (Header, Vec<u8>) {
    loop {
        let (header, frame) = guest.receive();
        if frame[12..14] == [8, 0] && frame[23] == 6 {
            return (header, frame);
        }
    }
}

#[test]
fn nonsense_is_the_kernels_to_drop() {
    with_guest(ALL, |mut guest| {
        let host = UdpSocket::bind("10.0.2.1:4000").unwrap();
        host.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        guest.send_raw(&[0xff; 5]);
        guest.send_raw(&[0xff; 12]);
        guest.send_raw(&[0xff; 3000]);
        let cut = Header {
            checksum: Some((60_000, 60_000)),
            segments: Some((Segments::Tcp4, 1)),
            ..Header::default()
        };
        guest.send(&cut, &ethernet(0x800, &[0x45; 30]));
        let to = SocketAddrV4::new(HOST, 4000);
        guest.send(&Header::default(), &udp(5000, to, b"alive"));
        let mut buffer = [0; 64];
        let (count, _) = host.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"alive");
    });
}
