//! When the guest's payloads are acknowledged: by themselves, or with the host's answers.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod guest;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use dev_net::header::Header;
use guest::frames::{read_ipv4, tcp};
use guest::{ALL, Guest, Host, config, dialer};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const PORT: u16 = 5000;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// The guest's end of a connection, and the host's.
struct Connection {
    guest: Guest,
    to: SocketAddrV4,
    /// The numbers of the next bytes of the guest's and of the host's.
    ours: u32,
    theirs: u32,
    stream: TcpStream,
    _host: Host,
}

/// A segment that the guest got.
struct Heard {
    seq: u32,
    ack: u32,
    payload: usize,
}

impl Connection {
    fn open() -> Self {
        let host = Host::start(config(1500));
        dialer::serve(&host);
        let mut guest = Guest::start(&host, ALL, 4096);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = SocketAddrV4::new(HOST, listener.local_addr().unwrap().port());
        guest.send(&Header::default(), &tcp(PORT, to, 100, 0, SYN, b""));
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let answer = heard(&mut guest);
        let mut connection = Self {
            guest,
            to,
            ours: 101,
            theirs: answer.seq.wrapping_add(1),
            stream,
            _host: host,
        };
        connection.send(b"");
        connection
    }

    fn send(&mut self, payload: &[u8]) {
        let frame = tcp(PORT, self.to, self.ours, self.theirs, ACK, payload);
        self.guest.send(&Header::default(), &frame);
        self.ours = self.ours.wrapping_add(payload.len() as u32);
    }

    /// A byte there and a byte back; how many segments that took.
    fn turn(&mut self) -> usize {
        self.send(b"?");
        self.stream.read_exact(&mut [0]).unwrap();
        self.stream.write_all(b"!").unwrap();
        for count in 1.. {
            let segment = heard(&mut self.guest);
            assert_eq!(segment.ack, self.ours);
            if segment.payload > 0 {
                assert_eq!((segment.seq, segment.payload), (self.theirs, 1));
                self.theirs = self.theirs.wrapping_add(1);
                return count;
            }
        }
        unreachable!("there is always a next segment");
    }
}

fn heard(guest: &mut Guest) -> Heard {
    loop {
        let (_, frame) = guest.receive();
        if frame[12..14] != [8, 0] {
            continue;
        }
        let (_, protocol, content) = read_ipv4(&frame);
        assert_eq!(protocol, 6);
        let number = |at: usize| u32::from_be_bytes(content[at..at + 4].try_into().unwrap());
        let header = usize::from(content[12] >> 4) * 4;
        return Heard {
            seq: number(4),
            ack: number(8),
            payload: content.len() - header,
        };
    }
}

#[test]
fn in_a_conversation_acknowledgements_go_with_the_answers() {
    let mut connection = Connection::open();
    let alone: usize = (0..200).map(|_| connection.turn() - 1).sum();
    // Those of the beginning, and those that a busy host was too slow for.
    assert!((1..200).contains(&alone), "{alone} were sent alone");
}

#[test]
fn a_payload_without_an_answer_is_acknowledged_by_itself() {
    let mut connection = Connection::open();
    for _ in 0..50 {
        connection.turn();
    }
    for _ in 0..3 {
        connection.send(b"?");
        let segment = heard(&mut connection.guest);
        assert_eq!((segment.ack, segment.payload), (connection.ours, 0));
    }
    assert!(connection.turn() <= 2);
}

#[test]
fn what_comes_before_an_answer_is_acknowledged_all_the_same() {
    let mut connection = Connection::open();
    for _ in 0..50 {
        connection.turn();
    }
    connection.send(b"?");
    connection.send(b"??");
    let mut segment = heard(&mut connection.guest);
    while segment.ack != connection.ours {
        segment = heard(&mut connection.guest);
    }
    assert_eq!(segment.payload, 0);
}
