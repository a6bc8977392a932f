//! TCP: what the guest asks for, and who comes to its published ports.

mod rig;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rig::{Rig, all_but, config, nobody, publish, silent};
use wire::net::{Ask, DialerRequest, Failure, Protocol, Target, Tell};

fn server() -> (TcpListener, SocketAddr) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    (server, address)
}

#[track_caller]
fn fails(rig: &Rig, id: u32, why: Failure) {
    let (tell, stream) = rig.device.told();
    assert_eq!(tell, Tell::Failed { id, why });
    assert!(stream.is_none());
}

#[test]
fn a_connection_is_the_device_s_once_it_is_made() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let (server, address) = server();
    rig.device.connect(7, address);
    let mut stream = rig.device.connected(7);
    let (mut other, _) = server.accept().unwrap();
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    other.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    // The other half is open still, and outlives the dialer.
    rig.end().unwrap();
    other.write_all(b"answer").unwrap();
    drop(other);
    text.clear();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
    assert!(stream.nodelay().unwrap());
}

#[test]
fn ports_without_a_server_refuse() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    rig.device.connect(1, nobody());
    fails(&rig, 1, Failure::Refused);
    rig.end().unwrap();
}

#[test]
fn addresses_that_cannot_be_reached_say_so() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    for (id, address) in (0..).zip(["224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1"]) {
        rig.device
            .connect(id, address.parse::<SocketAddr>().unwrap());
        fails(&rig, id, Failure::Unreachable);
    }
    rig.end().unwrap();
}

#[test]
fn what_the_policy_denies_is_not_even_tried_however_it_is_written() {
    let rig = Rig::start(config(all_but(&["127.0.0.0/8", "::1/128"])), vec![]);
    let (server, address) = server();
    server.set_nonblocking(true).unwrap();
    let hosts = [
        "127.0.0.1",
        "0.0.0.0",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
    ];
    for (id, host) in (0..).zip(hosts) {
        let address = SocketAddr::new(host.parse().unwrap(), address.port());
        rig.device.connect(id, address);
        fails(&rig, id, Failure::Denied);
    }
    let accepted = server.accept().map_err(|error| error.kind());
    assert!(matches!(accepted, Err(std::io::ErrorKind::WouldBlock)));
    rig.end().unwrap();
}

#[test]
fn a_mapped_address_that_is_allowed_is_connected_as_ipv4() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let (server, address) = server();
    let mapped: Ipv6Addr = "::ffff:127.0.0.1".parse().unwrap();
    rig.device.connect(1, (mapped, address.port()));
    let stream = rig.device.connected(1);
    assert!(stream.peer_addr().unwrap().is_ipv4());
    drop(server);
    rig.end().unwrap();
}

#[test]
fn a_cancelled_connection_is_not_answered_and_its_id_is_free() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let (_server, silent, _connects) = silent();
    rig.device.connect(5, silent);
    rig.device.ask(Ask::Cancel { id: 5 });
    // An id that nobody knows is no offence: the answer may have been on its way.
    rig.device.ask(Ask::Cancel { id: 6 });
    rig.device.connect(5, nobody());
    fails(&rig, 5, Failure::Refused);
    rig.end().unwrap();
}

#[test]
fn more_connections_at_a_time_than_it_makes_are_turned_down_and_others_go_on() {
    const MORE: u32 = 4096 + 8;
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let (_server, silent, _connects) = silent();
    for id in 0..MORE {
        rig.device.connect(id, silent);
    }
    for id in 4096..MORE {
        fails(&rig, id, Failure::Exhausted);
    }
    for id in 0..4096 {
        rig.device.ask(Ask::Cancel { id });
    }
    rig.device.assert_served(1);
    rig.end().unwrap();
}

#[test]
fn answers_that_the_device_does_not_take_wait_and_nothing_is_lost() {
    const MANY: u32 = 3000;
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let refused = nobody();
    let asking = rustix::io::dup(&rig.device.streams).unwrap();
    let asking = std::thread::spawn(move || {
        let target = Target::Address(refused);
        for id in 0..MANY {
            let message = wire::encode(&Ask::Connect { id, target }).unwrap();
            let packet = [vec![0], message].concat();
            rustix::net::send(&asking, &packet, rustix::net::SendFlags::NOSIGNAL).unwrap();
        }
    });
    std::thread::sleep(Duration::from_millis(300));
    let mut ids: Vec<_> = (0..MANY)
        .map(|_| match rig.device.told().0 {
            Tell::Failed { id, .. } => id,
            other => panic!("{other:?}"),
        })
        .collect();
    asking.join().unwrap();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..MANY));
    rig.end().unwrap();
}

#[test]
fn a_connection_to_a_name_server_goes_to_the_first_that_accepts_and_past_the_policy() {
    let (server, address) = server();
    let mut config = config(all_but(&["0.0.0.0/0"]));
    config.nameservers = vec![nobody(), address];
    let rig = Rig::start(config, vec![]);
    let target = Target::Dns;
    rig.device.ask(Ask::Connect { id: 1, target });
    let stream = rig.device.connected(1);
    assert_eq!(stream.peer_addr().unwrap(), address);
    drop(server);
    // Without any there is no way.
    let none = DialerRequest::Nameservers(vec![]);
    rig.control.send(&none, &[]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    rig.device.ask(Ask::Connect { id: 2, target });
    fails(&rig, 2, Failure::Unreachable);
    rig.end().unwrap();
}

#[test]
fn a_name_server_that_does_not_answer_is_left_for_the_next() {
    let (_silent, silent, _connects) = silent();
    let (server, address) = server();
    let mut config = config(all_but(&[]));
    config.nameservers = vec![silent, address];
    let rig = Rig::start(config, vec![]);
    let begin = Instant::now();
    let target = Target::Dns;
    rig.device.ask(Ask::Connect { id: 1, target });
    let stream = rig.device.connected(1);
    assert_eq!(stream.peer_addr().unwrap(), address);
    assert!(begin.elapsed() >= Duration::from_secs(3));
    drop(server);
    rig.end().unwrap();
}

#[test]
fn whoever_connects_to_a_published_port_is_handed_over_with_the_port() {
    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let both = TcpListener::bind("[::]:0").unwrap();
    let addresses = [
        v4.local_addr().unwrap(),
        rig::by_loopback(both.local_addr().unwrap()),
    ];
    let (first, one) = publish(Protocol::Tcp, 80, v4);
    let (second, other) = publish(Protocol::Tcp, 443, both);
    let mut config = config(all_but(&["0.0.0.0/0"]));
    config.publish = vec![first, second];
    let rig = Rig::start(config, vec![one, other]);
    for (address, port) in addresses.into_iter().zip([80, 443]) {
        let mut outside = TcpStream::connect(address).unwrap();
        let (tell, stream) = rig.device.told();
        let peer = outside.local_addr().unwrap();
        assert_eq!(tell, Tell::Accepted { port, peer });
        outside.write_all(b"x").unwrap();
        stream.unwrap().read_exact(&mut [0]).unwrap();
    }
    rig.end().unwrap();
}

#[test]
fn connections_that_the_device_does_not_take_wait_in_the_port_s_queue() {
    const MANY: usize = 800;
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    rustix::net::listen(&server, 4096).unwrap();
    let (published, socket) = publish(Protocol::Tcp, 80, server);
    let mut config = config(all_but(&[]));
    config.publish = vec![published];
    let rig = Rig::start(config, vec![socket]);
    let outside: Vec<_> = (0..MANY)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..MANY {
        assert!(matches!(
            rig.device.told(),
            (Tell::Accepted { .. }, Some(_))
        ));
    }
    drop(outside);
    rig.end().unwrap();
}
