//! Questions to name servers, good ones and others.

mod rig;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rig::{Rig, all_but, config, guest, nobody, udp};
use wire::net::{DialerRequest, Kind};

/// Whom the guest asks.
fn asked() -> SocketAddr {
    SocketAddr::from(([10, 0, 2, 2], 53))
}

/// A question, or an answer, with an identifier and the flags of RFC 1035, section 4.1.1.
fn message(id: u16, flags: u16, rest: &[u8]) -> Vec<u8> {
    let counts = [0, 1, 0, 0, 0, 0, 0, 0];
    let name = b"\x07example\x03org\x00\x00\x01\x00\x01";
    let head = [id.to_be_bytes(), flags.to_be_bytes()].concat();
    [&head[..], &counts, name, rest].concat()
}

const RESPONSE: u16 = 0x8000;
const SERVER_FAILURE: u16 = RESPONSE | 2;

fn rig(servers: &[SocketAddr]) -> Rig {
    // Name servers are the host's own: no policy keeps the guest from them.
    let mut config = config(all_but(&["0.0.0.0/0", "::/0"]));
    config.nameservers = servers.to_vec();
    Rig::start(config, vec![])
}

fn ask(rig: &Rig, id: u16) {
    rig.device
        .send(Kind::Dns, 1234, asked(), &message(id, 0, b""));
}

/// A server gets a question.
#[track_caller]
fn question(server: &UdpSocket, id: u16) -> SocketAddr {
    let mut buffer = [0; 512];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..length], message(id, 0, b""));
    from
}

/// The guest gets an answer.
#[track_caller]
fn answer(rig: &Rig, text: &[u8]) {
    let expected = (guest(1234), asked(), Kind::Dns, text.to_vec());
    assert_eq!(rig.device.heard(), expected);
}

#[test]
fn questions_and_answers_pass_unchanged_each_from_another_port() {
    let server = udp();
    let rig = rig(&[server.local_addr().unwrap()]);
    let mut ports = Vec::new();
    for id in 0..8 {
        ask(&rig, id);
        let from = question(&server, id);
        ports.push(from.port());
        let text = message(id, RESPONSE, &[0xab; 4000]);
        server.send_to(&text, from).unwrap();
        answer(&rig, &text);
    }
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() > 4, "{ports:?}");
    rig.end().unwrap();
}

#[test]
fn a_dead_server_is_left_at_once_for_the_next() {
    let server = udp();
    let rig = rig(&[nobody(), server.local_addr().unwrap()]);
    let begin = Instant::now();
    ask(&rig, 7);
    let from = question(&server, 7);
    assert!(begin.elapsed() < Duration::from_secs(2));
    server.send_to(&message(7, RESPONSE, b""), from).unwrap();
    answer(&rig, &message(7, RESPONSE, b""));
    rig.end().unwrap();
}

#[test]
fn a_silent_server_is_left_for_the_next_which_then_is_asked_first() {
    let (silent, server) = (udp(), udp());
    let rig = rig(&[silent.local_addr().unwrap(), server.local_addr().unwrap()]);
    let begin = Instant::now();
    ask(&rig, 7);
    question(&silent, 7);
    let from = question(&server, 7);
    assert!(begin.elapsed() >= Duration::from_secs(2));
    server.send_to(&message(7, RESPONSE, b""), from).unwrap();
    answer(&rig, &message(7, RESPONSE, b""));
    let begin = Instant::now();
    ask(&rig, 8);
    question(&server, 8);
    assert!(begin.elapsed() < Duration::from_secs(2));
    rig.end().unwrap();
}

#[test]
fn answers_with_another_identifier_text_or_sender_are_not_believed() {
    let (server, stranger) = (udp(), udp());
    let rig = rig(&[server.local_addr().unwrap()]);
    ask(&rig, 7);
    let from = question(&server, 7);
    server.send_to(&message(8, RESPONSE, b""), from).unwrap();
    server.send_to(&message(7, 0, b""), from).unwrap();
    server.send_to(b"nonsense", from).unwrap();
    let mut other = message(7, RESPONSE, b"");
    other[14] = b'E';
    other[15] = b'y';
    server.send_to(&other, from).unwrap();
    stranger
        .send_to(&message(7, RESPONSE, b"evil"), from)
        .unwrap();
    rig.device.assert_silence();
    server
        .send_to(&message(7, RESPONSE, b"true"), from)
        .unwrap();
    answer(&rig, &message(7, RESPONSE, b"true"));
    rig.end().unwrap();
}

#[test]
fn a_server_that_fails_is_left_for_the_next_and_the_last_answer_counts() {
    let (first, second) = (udp(), udp());
    let servers = [first.local_addr().unwrap(), second.local_addr().unwrap()];
    let rig = rig(&servers);
    ask(&rig, 7);
    let from = question(&first, 7);
    first
        .send_to(&message(7, SERVER_FAILURE, b"1"), from)
        .unwrap();
    let from = question(&second, 7);
    second.send_to(&message(7, RESPONSE, b"2"), from).unwrap();
    answer(&rig, &message(7, RESPONSE, b"2"));
    // If all fail, the guest gets the last one's answer after one round.
    ask(&rig, 8);
    for server in [&first, &second] {
        let from = question(server, 8);
        let port = server.local_addr().unwrap().port();
        let text = message(8, SERVER_FAILURE, &port.to_be_bytes());
        server.send_to(&text, from).unwrap();
    }
    let port = second.local_addr().unwrap().port();
    answer(&rig, &message(8, SERVER_FAILURE, &port.to_be_bytes()));
    rig.end().unwrap();
}

#[test]
fn without_a_server_that_can_be_asked_the_guest_hears_that_nobody_is_there() {
    // None, some that are dead, one of a link that is not said.
    let unreachable = "[fe80::1]:53".parse().unwrap();
    for servers in [&[][..], &[nobody(), nobody()], &[unreachable]] {
        let rig = rig(servers);
        ask(&rig, 7);
        let expected = (guest(1234), asked(), Kind::Refused, vec![]);
        assert_eq!(rig.device.heard(), expected);
        rig.end().unwrap();
    }
}

#[test]
fn the_supervisor_names_other_servers_while_it_runs() {
    let server = udp();
    let rig = rig(&[nobody()]);
    let servers = vec![server.local_addr().unwrap()];
    let request = DialerRequest::Nameservers(servers);
    rig.control.send(&request, &[]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    ask(&rig, 7);
    question(&server, 7);
    rig.end().unwrap();
}

#[test]
fn more_questions_than_there_is_room_for_are_lost_and_the_others_are_answered() {
    let server = udp();
    let rig = rig(&[server.local_addr().unwrap()]);
    let mut asked = Vec::new();
    for id in 0..1024 {
        ask(&rig, id);
        asked.push((id, question(&server, id)));
    }
    ask(&rig, 5000);
    let (id, from) = asked.pop().unwrap();
    server.send_to(&message(id, RESPONSE, b""), from).unwrap();
    answer(&rig, &message(id, RESPONSE, b""));
    ask(&rig, 5001);
    question(&server, 5001);
    rig.end().unwrap();
}
