//! Correct traffic that is not TCP: the answers of the network itself, and datagrams.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use dev_net::header::{Header, Segments, feature};
use guest::frames::{
    GUEST, ROUTER, checksum, ethernet, ipv4, pseudo, read_ipv4, tcp, udp, udp_datagram,
};
use guest::{ALL, Guest, Host, MAC, PATIENCE, config, dialer};
use nix::sys::socket::{MsgFlags, recv, send};
use vq_driver::{Buffer, Driver, Setup};
use wire::net::{Config, Datagram, Kind, Rate, Tell};

const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Features with which the device completes checksums itself.
const PLAIN: u64 = feature::MAC | feature::MTU | feature::MRG_RXBUF | feature::CTRL_VQ;

fn start(mtu: u16, features: u64) -> (Host, Guest) {
    let host = Host::start(config(mtu));
    let guest = Guest::start(&host, features, 4096);
    (host, guest)
}

fn no_header() -> Header {
    Header::default()
}

/// What the dialer gets.
fn asked(host: &Host, check: impl FnOnce(Datagram<'_>)) {
    let mut buffer = vec![0; 70_000];
    let length = recv(host.datagrams.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    check(wire::decode(&buffer[..length]).unwrap());
}

fn tell(host: &Host, datagram: &Datagram<'_>) {
    let bytes = wire::encode(datagram).unwrap();
    send(host.datagrams.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
}

/// Checks a datagram that the guest got; from which port, and its content.
#[track_caller]
fn read_udp(frame: &[u8]) -> (SocketAddrV4, Vec<u8>) {
    let (from, protocol, content) = read_ipv4(frame);
    assert_eq!(protocol, 17);
    let length = content.len();
    // The pseudo header is the same in both directions.
    let sum = checksum(&[&pseudo(from, 17, length), content]);
    assert_eq!(sum, [0, 0], "the datagram's checksum is wrong");
    let port = u16::from_be_bytes([content[0], content[1]]);
    (SocketAddrV4::new(from, port), content[8..].to_vec())
}

#[test]
fn the_configuration_space_has_address_link_and_mtu() {
    let (_host, guest) = start(9000, ALL);
    let config = guest.driver.frontend.config(0, 12).unwrap();
    let [m0, m1] = 9000_u16.to_le_bytes();
    assert_eq!(config, [&MAC[..], &[1, 0, 1, 0, m0, m1]].concat());
    assert_eq!(guest.driver.features & ALL, ALL);
}

#[test]
fn arp_is_answered_for_gateway_and_host_only() {
    let (_host, mut guest) = start(1500, ALL);
    let request = |target: Ipv4Addr| {
        let parts: [&[u8]; 5] = [
            &[0, 1, 8, 0, 6, 4, 0, 1],
            &MAC,
            &GUEST.octets(),
            &[0; 6],
            &target.octets(),
        ];
        let mut frame = ethernet(0x806, &parts.concat());
        frame[..6].copy_from_slice(&[0xff; 6]);
        frame
    };
    for other in [GUEST, Ipv4Addr::new(10, 0, 2, 99)] {
        guest.send(&no_header(), &request(other));
    }
    for ours in [ROUTER, HOST] {
        guest.send(&no_header(), &request(ours));
        let (_, reply) = guest.receive();
        assert_eq!(&reply[..6], &MAC);
        assert_eq!(&reply[20..22], &[0, 2]);
        assert_eq!(&reply[22..28], b"\x02crumb");
        assert_eq!(&reply[28..32], &ours.octets());
    }
}

#[test]
fn gateway_and_host_answer_pings_and_the_dialer_is_asked_for_others() {
    let (host, mut guest) = start(1500, PLAIN);
    let ping = |to: Ipv4Addr| {
        let mut message = vec![8, 0, 0, 0, 0, 7, 0, 1, b'h', b'i'];
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum);
        ipv4(to, 1, &message, (0, 0))
    };
    for to in [ROUTER, HOST] {
        guest.send(&no_header(), &ping(to));
        let (_, reply) = guest.receive();
        let (from, protocol, content) = read_ipv4(&reply);
        assert_eq!((from, protocol), (to, 1));
        assert_eq!(checksum(&[content]), [0, 0]);
        assert_eq!(
            (content[0], &content[4..]),
            (0, &[0, 7, 0, 1, b'h', b'i'][..])
        );
    }
    guest.send(&no_header(), &ping(REMOTE));
    asked(&host, |datagram| {
        assert_eq!(datagram.guest, SocketAddr::new(GUEST.into(), 7));
        assert_eq!(datagram.remote, SocketAddr::new(REMOTE.into(), 0));
        assert_eq!(datagram.kind, Kind::Echo { sequence: 1 });
        assert_eq!(datagram.payload, b"hi");
        tell(&host, &datagram);
    });
    let (_, reply) = guest.receive();
    let (from, _, content) = read_ipv4(&reply);
    assert_eq!((from, content[0]), (REMOTE, 0));
}

#[test]
fn datagrams_go_to_the_dialer_and_come_from_it() {
    for features in [ALL, PLAIN] {
        let (host, mut guest) = start(65520, features);
        let to = SocketAddrV4::new(REMOTE, 4000);
        for length in [0, 1, 1000, 60_000] {
            let payload = vec![length as u8; length];
            guest.send(&no_header(), &udp(5000, to, &payload));
            asked(&host, |datagram| {
                assert_eq!(datagram.guest, SocketAddr::new(GUEST.into(), 5000));
                assert_eq!((datagram.remote, datagram.kind), (to.into(), Kind::Udp));
                assert!(datagram.payload == payload);
                tell(&host, &datagram);
            });
            let (header, mut reply) = guest.receive();
            if let Some((start, offset)) = header.checksum {
                assert_eq!((start, offset), (34, 6));
                complete(&mut reply, usize::from(start));
            }
            assert_eq!(read_udp(&reply), (to, payload));
        }
    }
}

/// Does what a guest does that agreed to complete checksums.
fn complete(frame: &mut [u8], start: usize) {
    let sum = checksum(&[&frame[start..]]);
    frame[start + 6..start + 8].copy_from_slice(&sum);
}

#[test]
fn a_datagram_to_a_published_port_goes_to_the_guest() {
    let (host, mut guest) = start(1500, PLAIN);
    tell(
        &host,
        &Datagram {
            guest: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 5000),
            remote: SocketAddr::new(REMOTE.into(), 4000),
            kind: Kind::Udp,
            payload: b"hello",
        },
    );
    let (_, frame) = guest.receive();
    assert_eq!(frame[30..34], GUEST.octets());
    let expected = (SocketAddrV4::new(REMOTE, 4000), b"hello".to_vec());
    assert_eq!(read_udp(&frame), expected);
}

#[test]
fn a_datagram_larger_than_the_mtu_comes_in_fragments() {
    let (host, mut guest) = start(1500, PLAIN);
    let to = SocketAddrV4::new(REMOTE, 4000);
    let payload: Vec<u8> = (0..4000_u32).map(|byte| byte as u8).collect();
    tell(
        &host,
        &Datagram {
            guest: SocketAddr::new(GUEST.into(), 5000),
            remote: to.into(),
            kind: Kind::Udp,
            payload: &payload,
        },
    );
    let mut whole = Vec::new();
    loop {
        let (_, frame) = guest.receive();
        let place = u16::from_be_bytes([frame[20], frame[21]]);
        assert_eq!(usize::from(place & 0x1fff) * 8, whole.len());
        assert!(frame.len() <= 1514);
        whole.extend_from_slice(read_ipv4(&frame).2);
        if place & 0x2000 == 0 {
            break;
        }
    }
    assert_eq!(
        checksum(&[&pseudo(REMOTE, 17, whole.len()), &whole]),
        [0, 0]
    );
    assert!(whole[8..] == payload);
}

#[test]
fn fragments_of_the_guest_are_put_together() {
    let (host, mut guest) = start(1500, PLAIN);
    let to = SocketAddrV4::new(REMOTE, 4000);
    let payload = vec![b'x'; 2000];
    let datagram = udp_datagram(5000, to, &payload);
    let (first, second) = datagram.split_at(1480);
    // The second one first.
    guest.send(&no_header(), &ipv4(REMOTE, 17, second, (9, 185)));
    guest.send(&no_header(), &ipv4(REMOTE, 17, first, (9, 0x2000)));
    asked(&host, |datagram| assert!(datagram.payload == payload));
}

#[test]
fn a_large_datagram_that_is_to_be_cut_is_several() {
    let (host, mut guest) = start(1500, ALL);
    let to = SocketAddrV4::new(REMOTE, 443);
    let header = Header {
        checksum: Some((34, 6)),
        segments: Some((Segments::Udp, 1000)),
        ..Header::default()
    };
    guest.send(&header, &udp(5000, to, &[7; 2500]));
    for length in [1000, 1000, 500] {
        asked(&host, |datagram| assert_eq!(datagram.payload.len(), length));
    }
}

#[test]
fn what_the_dialer_cannot_deliver_is_said_in_icmp() {
    let (host, mut guest) = start(1500, PLAIN);
    let to = SocketAddrV4::new(REMOTE, 4000);
    for (kind, code, from) in [
        (Kind::Refused, [3, 3], REMOTE),
        (Kind::Unreachable, [3, 1], ROUTER),
        (Kind::Denied, [3, 13], ROUTER),
    ] {
        tell(
            &host,
            &Datagram {
                guest: SocketAddr::new(GUEST.into(), 5000),
                remote: to.into(),
                kind,
                payload: &[],
            },
        );
        let (_, frame) = guest.receive();
        let (teller, protocol, content) = read_ipv4(&frame);
        assert_eq!((teller, protocol), (from, 1));
        assert_eq!(content[..2], code);
        assert_eq!(checksum(&[content]), [0, 0]);
        // What was sent: addresses and ports.
        let sent = &content[8..];
        assert_eq!(&sent[12..20], [GUEST.octets(), REMOTE.octets()].concat());
        assert_eq!(&sent[20..24], &[0x13, 0x88, 0x0f, 0xa0]);
    }
}

#[test]
fn nobody_is_where_nobody_is() {
    let (_host, mut guest) = start(1500, PLAIN);
    let unreachable = [
        (SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 77), 9), [3, 1]),
        (SocketAddrV4::new(ROUTER, 9), [3, 3]),
    ];
    for (to, code) in unreachable {
        guest.send(&no_header(), &udp(5000, to, b"x"));
        let (_, frame) = guest.receive();
        assert_eq!(read_ipv4(&frame).2[..2], code);
    }
}

#[test]
fn our_names_are_answered_here_and_others_by_the_dialer() {
    let (host, mut guest) = start(1500, PLAIN);
    let dns = SocketAddrV4::new(ROUTER, 53);
    let question =
        |name: &[u8]| [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, 1, 0, 1]].concat();
    let ours = question(b"\x04host\x08internal\0");
    guest.send(&no_header(), &udp(5000, dns, &ours));
    let (_, frame) = guest.receive();
    let (from, answer) = read_udp(&frame);
    assert_eq!(from, dns);
    assert!(answer.ends_with(&HOST.octets()));
    let theirs = question(b"\x07example\x03org\0");
    guest.send(&no_header(), &udp(5000, dns, &theirs));
    asked(&host, |datagram| {
        assert_eq!((datagram.remote, datagram.kind), (dns.into(), Kind::Dns));
        assert_eq!(datagram.payload, theirs);
        tell(&host, &datagram);
    });
    let (_, frame) = guest.receive();
    assert_eq!(read_udp(&frame), (dns, theirs));
}

#[test]
fn dhcp_gives_the_guest_its_address() {
    let (_host, mut guest) = start(1500, PLAIN);
    let message = [
        &[1, 1, 6, 0, 1, 2, 3, 4][..],
        &[0; 20],
        &MAC,
        &[0; 10],
        &[0; 192],
        &[99, 130, 83, 99, 53, 1, 1, 255],
    ]
    .concat();
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
    let mut frame = udp(68, everybody, &message);
    frame[..6].copy_from_slice(&[0xff; 6]);
    guest.send(&no_header(), &frame);
    let (_, frame) = guest.receive();
    let (from, _, content) = read_ipv4(&frame);
    assert_eq!(from, ROUTER);
    assert_eq!(&content[8 + 16..8 + 20], &GUEST.octets());
}

#[test]
fn a_datagram_of_loopback_comes_from_the_hosts_address() {
    let (host, mut guest) = start(1500, PLAIN);
    dialer::serve(&host);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let to = SocketAddrV4::new(HOST, port);
    guest.send(&no_header(), &udp(5000, to, b"hello"));
    let mut bytes = [0; 9];
    let (length, peer) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"hello");
    server.send_to(b"answer", peer).unwrap();
    let (_, frame) = guest.receive();
    assert_eq!(read_udp(&frame), (to, b"answer".to_vec()));
}

#[test]
fn the_control_queue_takes_modes_and_an_address() {
    let (host, mut guest) = start(1500, ALL);
    assert_eq!(guest.command(&[0, 0, 1]), 0);
    assert_eq!(guest.command(&[0, 9, 1]), 1);
    assert_eq!(guest.command(&[1, 1, 1, 0, 0, 0, 0, 1]), 1);
    let mac = [2, 9, 9, 9, 9, 9];
    assert_eq!(guest.command(&[&[1, 1][..], &mac].concat()), 0);
    tell(
        &host,
        &Datagram {
            guest: SocketAddr::new(GUEST.into(), 5000),
            remote: SocketAddr::new(REMOTE.into(), 4000),
            kind: Kind::Udp,
            payload: b"x",
        },
    );
    let (_, frame) = guest.receive();
    assert_eq!(frame[..6], mac);
}

/// A guest with two pairs of queues: its driver, and a receive buffer in each pair.
fn two_pairs(features: u64) -> (Host, Driver, [u64; 2]) {
    let host = Host::start(Config {
        pairs: 2,
        ..config(1500)
    });
    let setup = Setup {
        queues: &[64, 64, 64, 64, 16],
        features,
        ..Setup::default()
    };
    let mut driver = Driver::start(host.socket.try_clone().unwrap(), &setup).unwrap();
    let buffers = [0, 2].map(|index: usize| {
        let address = driver.memory.allocate(4096).unwrap();
        let queue = &mut driver.queues[index];
        queue.add(&[Buffer::writable(address, 4096)]).unwrap();
        queue.kick().unwrap();
        address
    });
    (host, driver, buffers)
}

/// Sends a command by this queue; the answer.
fn command(driver: &mut Driver, queue: usize, command: &[u8]) -> u8 {
    let address = driver.memory.allocate(64).unwrap();
    driver.memory.write(address, command).unwrap();
    let length = command.len() as u32;
    let answer = address + u64::from(length);
    let queue = &mut driver.queues[queue];
    let buffers = [
        Buffer::readable(address, length),
        Buffer::writable(answer, 1),
    ];
    queue.add(&buffers).unwrap();
    queue.kick().unwrap();
    queue.wait(PATIENCE).unwrap();
    let mut byte = [0xff];
    driver.memory.read(answer, &mut byte).unwrap();
    byte[0]
}

fn transmit(driver: &mut Driver, queue: usize, frame: &[u8]) {
    let bytes = [&no_header().encode()[..], frame].concat();
    let address = driver.memory.allocate(bytes.len()).unwrap();
    driver.memory.write(address, &bytes).unwrap();
    let queue = &mut driver.queues[queue];
    queue
        .add(&[Buffer::readable(address, bytes.len() as u32)])
        .unwrap();
    queue.kick().unwrap();
}

#[test]
fn a_connection_is_answered_by_the_pair_that_it_uses() {
    let (host, mut driver, _) = two_pairs(ALL | feature::MQ);
    assert_eq!(driver.frontend.queue_count().unwrap(), 5);
    assert_eq!(driver.frontend.config(8, 2).unwrap(), [2, 0]);
    dialer::serve(&host);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = SocketAddrV4::new(HOST, listener.local_addr().unwrap().port());
    let syn = |port| tcp(port, to, 1, 0, 2, b"");
    assert_eq!(command(&mut driver, 4, &[4, 0, 3, 0]), 1);
    assert_eq!(command(&mut driver, 4, &[4, 0, 2, 0]), 0);
    transmit(&mut driver, 3, &syn(1000));
    assert!(driver.queues[2].wait(PATIENCE).unwrap().written > 0);
    assert!(driver.queues[0].used().unwrap().is_none());
    transmit(&mut driver, 1, &syn(1001));
    assert!(driver.queues[0].wait(PATIENCE).unwrap().written > 0);
}

#[test]
fn without_several_pairs_the_third_queue_is_the_control_queue() {
    let (_host, mut driver, _) = two_pairs(ALL);
    // The buffer that was put there is no command.
    assert_eq!(driver.queues[2].wait(PATIENCE).unwrap().written, 1);
    assert_eq!(command(&mut driver, 2, &[0, 0, 1]), 0);
}

#[test]
fn a_device_that_takes_the_place_of_another_goes_on_where_that_was() {
    let (first, mut guest) = start(1500, ALL);
    let to = SocketAddrV4::new(ROUTER, 9);
    for _ in 0..300 {
        guest.send(&no_header(), &udp(5000, to, b"x"));
        guest.receive();
    }
    drop(first);
    // What the guest sends while there is nobody is not lost.
    guest.send(&no_header(), &udp(5001, to, b"x"));
    let second = Host::start(config(1500));
    // Somebody connects before the queues are started.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    let tell = Tell::Accepted { port: 80, peer };
    second.streams.send(&tell, &[accepted.as_fd()]).unwrap();
    guest.moves_to(&second);
    let mut protocols = [guest.receive(), guest.receive()].map(|(_, frame)| frame[23]);
    protocols.sort_unstable();
    // The refusal of the datagram, and the SYN.
    assert_eq!(protocols, [1, 6]);
}

#[test]
fn the_guest_is_sent_to_by_the_address_that_it_sends_from() {
    let (_host, mut guest) = start(1500, ALL);
    let mut frame = udp(5000, SocketAddrV4::new(ROUTER, 9), b"x");
    let mac = [2, 7, 7, 7, 7, 7];
    frame[6..12].copy_from_slice(&mac);
    guest.send(&no_header(), &frame);
    let (_, answer) = guest.receive();
    assert_eq!(answer[..6], mac);
}

#[test]
fn a_rate_is_kept_in_both_directions() {
    let mut limited = config(1500);
    let rate = Rate {
        bytes: Some(100_000),
        burst: 10_000,
        packets: None,
    };
    limited.sending = Some(rate);
    limited.receiving = Some(rate);
    let host = Host::start(limited);
    let mut guest = Guest::start(&host, ALL, 4096);
    let to = SocketAddrV4::new(REMOTE, 4000);
    let begin = Instant::now();
    // 31 packets of 1042 bytes: 10,000 at once, and the rest at 100,000 a second.
    for _ in 0..31 {
        guest.send(&no_header(), &udp(5000, to, &[0; 1000]));
    }
    for _ in 0..31 {
        asked(&host, |datagram| tell(&host, &datagram));
    }
    let sent = begin.elapsed();
    for _ in 0..31 {
        guest.receive();
    }
    let least = Duration::from_millis(200);
    assert!(sent >= least, "{sent:?}");
    assert!(begin.elapsed() >= least);
}

#[test]
fn a_record_has_the_frames_of_both_directions() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let pcap = file.reopen().unwrap().into();
    let host = Host::recording(config(1500), Some(pcap));
    let mut guest = Guest::start(&host, ALL, 4096);
    let frame = udp(5000, SocketAddrV4::new(ROUTER, 9), b"x");
    guest.send(&no_header(), &frame);
    let (_, answer) = guest.receive();
    let mut bytes = Vec::new();
    std::fs::File::open(file.path())
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    let (first, rest) = bytes[24 + 16..].split_at(frame.len());
    assert_eq!(first, frame);
    assert_eq!(&rest[16..], answer);
}

#[test]
fn the_device_ends_with_its_front_end() {
    let (host, guest) = start(1500, ALL);
    let stream = guest.driver.frontend.stream();
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    host.end().unwrap();
}
