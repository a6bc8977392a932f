//! TCP through the device, between somebody else's stack and the host's.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;
mod stack;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use dev_net::header::feature;
use guest::{ALL, Guest, Host, PATIENCE, config, dialer};
use smoltcp::socket::tcp::State;
use stack::Stack;
use wire::net::Tell;

const HOST4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));
const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd63, 0x7275, 0x6d62, 0, 0, 0, 0, 3));

fn stack(mtu: u16, features: u64) -> (Host, Stack) {
    let host = Host::start(config(mtu));
    dialer::serve(&host);
    let receive = if features & feature::MRG_RXBUF != 0 {
        4096
    } else {
        66_000
    };
    let guest = Guest::start(&host, features, receive);
    let checks = features & feature::GUEST_CSUM == 0;
    (host, Stack::new(guest, mtu.into(), checks))
}

/// Bytes that show where they were cut.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// A server that sends back what it gets until its end, then its own end.
fn echo(address: &str) -> (u16, thread::JoinHandle<usize>) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut buffer = vec![0; 100_000];
        let mut all = 0;
        loop {
            let count = stream.read(&mut buffer).unwrap();
            if count == 0 {
                writer.shutdown(Shutdown::Write).unwrap();
                return all;
            }
            all += count;
            writer.write_all(&buffer[..count]).unwrap();
        }
    });
    (port, server)
}

/// Sends and gets back `length` bytes, closes from the guest's side, and sees both ends.
#[track_caller]
fn there_and_back(stack: &mut Stack, address: IpAddr, bind: &str, length: usize) {
    let (port, server) = echo(bind);
    let handle = stack.connect(512 * 1024, (address, port), 40_000);
    stack.await_state(handle, State::Established);
    let bytes = pattern(length);
    let back = stack.exchange(handle, &bytes, length);
    assert!(back == bytes, "what came back is not what was sent");
    stack.tcp(handle).close();
    // TIME-WAIT: the guest closed first, and the host's end came.
    stack.await_state(handle, State::TimeWait);
    assert_eq!(server.join().unwrap(), length);
    stack.sockets.remove(handle);
}

#[test]
fn megabytes_go_there_and_back_over_ipv4_and_ipv6() {
    let (_host, mut stack) = stack(65520, ALL);
    there_and_back(&mut stack, HOST4, "127.0.0.1:0", 20 << 20);
    there_and_back(&mut stack, HOST6, "[::1]:0", 20 << 20);
}

#[test]
fn a_small_mtu_without_any_offload_works_as_well() {
    let (_host, mut stack) = stack(1500, feature::MAC | feature::MTU);
    there_and_back(&mut stack, HOST4, "127.0.0.1:0", 3 << 20);
    there_and_back(&mut stack, HOST6, "[::1]:0", 3 << 20);
}

#[test]
fn one_receive_buffer_a_packet_works_as_well() {
    let (_host, mut stack) = stack(9000, ALL & !feature::MRG_RXBUF);
    there_and_back(&mut stack, HOST4, "127.0.0.1:0", 3 << 20);
}

#[test]
fn what_is_lost_between_guest_and_device_is_sent_again() {
    let without_tso = ALL & !(feature::GUEST_TSO4 | feature::GUEST_TSO6);
    let (_host, mut stack) = stack(1500, without_tso);
    stack.card.lose_every = 37;
    there_and_back(&mut stack, HOST4, "127.0.0.1:0", 40_000);
}

#[test]
fn a_port_that_nobody_listens_on_is_refused() {
    let (_host, mut stack) = stack(65520, ALL);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let handle = stack.connect(4096, (HOST4, port), 40_000);
    stack.await_state(handle, State::Closed);
    // The gateway itself has nothing but DNS.
    let gateway = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
    let handle = stack.connect(4096, (gateway, 80), 40_001);
    stack.await_state(handle, State::Closed);
}

#[test]
fn each_direction_ends_by_itself() {
    let (_host, mut stack) = stack(65520, ALL);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = stack.connect(65536, (HOST4, port), 40_000);
    stack.await_state(handle, State::Established);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The host ends; the guest still speaks.
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stack.await_state(handle, State::CloseWait);
    let received = stack.exchange(handle, b"goodbye", 10);
    assert_eq!(received, b"last words");
    let mut heard = [0; 7];
    while stack.tcp(handle).send_queue() > 0 {
        stack.poll();
    }
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"goodbye");
    stack.tcp(handle).close();
    stack.await_state(handle, State::Closed);
    assert_eq!(stream.read(&mut heard).unwrap(), 0);
}

#[test]
fn a_reset_on_one_side_is_one_on_the_other() {
    let (_host, mut stack) = stack(65520, ALL);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = stack.connect(65536, (HOST4, port), 40_000);
    stack.await_state(handle, State::Established);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stack.tcp(handle).abort();
    stack.poll();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let handle = stack.connect(65536, (HOST4, port), 40_001);
    stack.await_state(handle, State::Established);
    let (stream, _) = listener.accept().unwrap();
    stack.tcp(handle).send_slice(b"unread").unwrap();
    while stack.tcp(handle).send_queue() > 0 {
        stack.poll();
    }
    thread::sleep(Duration::from_millis(50));
    // Closing with something unread is a reset.
    drop(stream);
    stack.await_state(handle, State::Closed);
}

#[test]
fn a_host_that_does_not_read_stops_the_guest_and_loses_nothing() {
    const LENGTH: usize = 24 << 20;
    let (_host, mut stack) = stack(65520, ALL);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = stack.connect(1 << 20, (HOST4, port), 40_000);
    stack.await_state(handle, State::Established);
    let (mut stream, _) = listener.accept().unwrap();
    let bytes = pattern(LENGTH);
    let mut sent = 0;
    let mut still = 0;
    // Until nothing moves for a while.
    stack.run("the guest stops", |stack| {
        let socket = stack.tcp(handle);
        let count = socket.send_slice(&bytes[sent..]).unwrap();
        sent += count;
        still = if count == 0 { still + 1 } else { 0 };
        still > 300
    });
    assert!(
        sent < LENGTH,
        "everything was taken from a guest whose peer reads nothing"
    );
    let reader = thread::spawn(move || {
        let mut all = vec![0; LENGTH];
        stream.read_exact(&mut all).unwrap();
        all
    });
    stack.run("the rest", |stack| {
        let socket = stack.tcp(handle);
        if socket.can_send() && sent < LENGTH {
            sent += socket.send_slice(&bytes[sent..]).unwrap();
        }
        sent == LENGTH && socket.send_queue() == 0
    });
    assert!(reader.join().unwrap() == bytes);
}

#[test]
fn a_guest_that_does_not_read_stops_the_host_and_loses_nothing() {
    const LENGTH: usize = 24 << 20;
    let (_host, mut stack) = stack(65520, ALL);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = stack.connect(100_000, (HOST4, port), 40_000);
    stack.await_state(handle, State::Established);
    let (mut stream, _) = listener.accept().unwrap();
    let bytes = pattern(LENGTH);
    let sending = bytes.clone();
    let writer = thread::spawn(move || stream.write_all(&sending));
    let begin = std::time::Instant::now();
    stack.run("a guest that waits", |_| {
        begin.elapsed() > Duration::from_secs(2)
    });
    assert!(
        !writer.is_finished(),
        "everything was taken for a guest that reads nothing"
    );
    let received = stack.exchange(handle, &[], LENGTH);
    assert!(received == bytes);
    writer.join().unwrap().unwrap();
}

#[test]
fn a_published_port_leads_to_the_guest() {
    let (host, mut stack) = stack(65520, ALL);
    let handle = stack.socket(65536);
    stack.tcp(handle).listen(8080).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let tell = Tell::Accepted { port: 8080, peer };
    host.streams.send(&tell, &[accepted.as_fd()]).unwrap();
    stack.await_state(handle, State::Established);
    let remote = stack.tcp(handle).remote_endpoint().unwrap();
    assert_eq!(
        (IpAddr::from(remote.addr), remote.port),
        (HOST4, peer.port())
    );
    client.write_all(b"ping").unwrap();
    assert_eq!(stack.exchange(handle, b"pong", 4), b"ping");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 4];
    while stack.tcp(handle).send_queue() > 0 {
        stack.poll();
    }
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong");

    // A port that nobody in the guest listens on: the client is told.
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    let tell = Tell::Accepted { port: 8081, peer };
    host.streams.send(&tell, &[accepted.as_fd()]).unwrap();
    drop(accepted);
    let reader = thread::spawn(move || client.read(&mut [0; 1]));
    stack.run("a reset", |_| reader.is_finished());
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
