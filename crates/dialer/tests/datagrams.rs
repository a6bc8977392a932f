//! UDP: what the guest sends, what may come back, and who comes to its published ports.

mod rig;

use std::net::{SocketAddr, UdpSocket};

use rig::{Rig, all_but, by_loopback, config, guest, nobody, publish, udp};
use wire::net::{Kind, Protocol};

#[test]
fn datagrams_of_all_sizes_go_out_and_come_back() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let server = udp();
    let address = server.local_addr().unwrap();
    let mut buffer = vec![0; 70_000];
    for size in [0, 1, 1472, 9000, 65507] {
        let payload = vec![0xa5; size];
        rig.device.send(Kind::Udp, 1000, address, &payload);
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], payload);
        server.send_to(&payload, from).unwrap();
        let expected = (guest(1000), address, Kind::Udp, payload);
        assert!(rig.device.heard() == expected, "{size}");
    }
    rig.end().unwrap();
}

#[test]
fn one_port_of_the_guest_is_one_port_of_the_host_to_everybody() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let (first, second) = (udp(), udp());
    let mut seen = Vec::new();
    for port in [1000, 2000] {
        for server in [&first, &second] {
            rig.device
                .send(Kind::Udp, port, server.local_addr().unwrap(), b"x");
            seen.push(server.recv_from(&mut [0; 8]).unwrap().1);
        }
    }
    assert!(seen[0] == seen[1] && seen[2] == seen[3] && seen[0] != seen[2]);
    rig.end().unwrap();
}

#[test]
fn only_those_that_the_guest_has_sent_to_may_answer() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let (friend, stranger) = (udp(), udp());
    let address = friend.local_addr().unwrap();
    rig.device.send(Kind::Udp, 1000, address, b"x");
    let (_, host) = friend.recv_from(&mut [0; 8]).unwrap();
    stranger.send_to(b"let me in", host).unwrap();
    rig.device.assert_silence();
    friend.send_to(b"answer", host).unwrap();
    let expected = (guest(1000), address, Kind::Udp, b"answer".to_vec());
    assert_eq!(rig.device.heard(), expected);
    rig.end().unwrap();
}

#[test]
fn a_port_without_anybody_is_reported_as_refused_again_and_again() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let (nobody, server) = (nobody(), udp());
    let refused = (guest(1000), nobody, Kind::Refused, vec![]);
    for _ in 0..3 {
        rig.device.send(Kind::Udp, 1000, nobody, b"x");
        assert_eq!(rig.device.heard(), refused);
    }
    // The same port of the guest's still reaches others, however the errors come in.
    let address = server.local_addr().unwrap();
    for _ in 0..3 {
        rig.device.send(Kind::Udp, 1000, nobody, b"x");
        rig.device.send(Kind::Udp, 1000, address, b"x");
        server.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(rig.device.heard(), refused);
    }
    rig.device.assert_silence();
    rig.end().unwrap();
}

#[test]
fn what_the_policy_denies_is_not_sent_and_the_guest_hears_of_it() {
    let rig = Rig::start(config(all_but(&["127.0.0.0/8", "::1/128"])), vec![]);
    let server = udp();
    let port = server.local_addr().unwrap().port();
    for host in [
        "127.0.0.1",
        "0.0.0.0",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
    ] {
        let remote = SocketAddr::new(host.parse().unwrap(), port);
        rig.device.send(Kind::Udp, 1000, remote, b"x");
        assert_eq!(
            rig.device.heard(),
            (guest(1000), remote, Kind::Denied, vec![])
        );
        let echo = SocketAddr::new(host.parse().unwrap(), 0);
        let kind = Kind::Echo { sequence: 1 };
        rig.device.send(kind, 7, echo, b"x");
        assert_eq!(rig.device.heard(), (guest(7), echo, Kind::Denied, vec![]));
    }
    for host in ["224.0.0.251", "255.255.255.255", "ff02::fb"] {
        let remote = SocketAddr::new(host.parse().unwrap(), port);
        rig.device.send(Kind::Udp, 1000, remote, b"x");
        let unreachable = (guest(1000), remote, Kind::Unreachable, vec![]);
        assert_eq!(rig.device.heard(), unreachable);
    }
    server.set_nonblocking(true).unwrap();
    assert!(server.recv_from(&mut [0; 8]).is_err());
    rig.end().unwrap();
}

#[test]
fn ipv6_has_a_socket_of_its_own() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let Ok(server) = UdpSocket::bind("[::1]:0") else {
        return;
    };
    server.set_read_timeout(Some(rig::PATIENCE)).unwrap();
    let address = server.local_addr().unwrap();
    rig.device.send(Kind::Udp, 1000, address, b"x");
    let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
    server.send_to(b"y", from).unwrap();
    let expected = (guest(1000), address, Kind::Udp, b"y".to_vec());
    assert_eq!(rig.device.heard(), expected);
    let nobody = SocketAddr::new(address.ip(), nobody().port());
    rig.device.send(Kind::Udp, 1000, nobody, b"x");
    assert_eq!(
        rig.device.heard(),
        (guest(1000), nobody, Kind::Refused, vec![])
    );
    rig.end().unwrap();
}

#[test]
fn more_flows_than_there_is_room_for_cost_the_oldest_ones_and_nothing_else() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    let server = udp();
    let address = server.local_addr().unwrap();
    let mut hosts = Vec::new();
    for port in 1..=5000 {
        rig.device
            .send(Kind::Udp, port, address, &port.to_be_bytes());
        hosts.push(server.recv_from(&mut [0; 8]).unwrap().1);
    }
    // The first have ended, the last has not. What one of them gave back another may have been given.
    let is_free = |host: &&SocketAddr| hosts.iter().filter(|other| other == host).count() == 1;
    let ended = hosts[..800].iter().find(is_free).unwrap();
    server.send_to(b"x", ended).unwrap();
    rig.device.assert_silence();
    server.send_to(b"y", *hosts.last().unwrap()).unwrap();
    let expected = (guest(5000), address, Kind::Udp, b"y".to_vec());
    assert_eq!(rig.device.heard(), expected);
    rig.end().unwrap();
}

#[test]
fn whoever_sends_to_a_published_port_is_answered_from_there_past_the_policy() {
    let v4 = udp();
    let both = UdpSocket::bind("[::]:0").unwrap();
    let addresses = [&v4, &both].map(|socket| by_loopback(socket.local_addr().unwrap()));
    let (first, one) = publish(Protocol::Udp, 53, v4);
    let (second, other) = publish(Protocol::Udp, 54, both);
    let mut config = config(all_but(&["0.0.0.0/0"]));
    config.publish = vec![first, second];
    let rig = Rig::start(config, vec![one, other]);
    for (address, port) in addresses.into_iter().zip([53, 54]) {
        let outside = udp();
        let peer = outside.local_addr().unwrap();
        outside.send_to(b"question", address).unwrap();
        // Nobody has told the dialer who the guest is.
        let unknown = SocketAddr::from(([0, 0, 0, 0], port));
        let expected = (unknown, peer, Kind::Udp, b"question".to_vec());
        assert_eq!(rig.device.heard(), expected);
        rig.device.send(Kind::Udp, port, peer, b"answer");
        let mut buffer = [0; 16];
        let (length, from) = outside.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"answer"[..], address));
        outside.send_to(b"more", address).unwrap();
        let expected = (guest(port), peer, Kind::Udp, b"more".to_vec());
        assert_eq!(rig.device.heard(), expected);
        // Others are not reached this way.
        let other = udp().local_addr().unwrap();
        rig.device.send(Kind::Udp, port, other, b"x");
        assert_eq!(rig.device.heard().2, Kind::Denied);
        // That the peer is gone is heard of.
        drop(outside);
        rig.device.send(Kind::Udp, port, peer, b"x");
        assert_eq!(rig.device.heard().2, Kind::Refused, "{port}");
    }
    rig.end().unwrap();
}
