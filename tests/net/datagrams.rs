//! UDP, and echo requests.

use std::net::UdpSocket;

use crate::{lab::Lab, namespace::PATIENCE, programs};

crate::tests![
    datagrams_of_every_size_come_back_over_ipv4_and_ipv6,
    a_port_where_nobody_is_refuses_datagrams,
    hosts_answer_pings_over_ipv4_and_ipv6,
    a_ping_to_where_there_is_no_way_says_so,
];

fn datagrams_of_every_size_come_back_over_ipv4_and_ipv6() {
    let lab = Lab::new();
    for (own, address) in [
        ("0.0.0.0:0", "203.0.113.7:7"),
        ("[::]:0", "[2001:db8::7]:7"),
    ] {
        let _server = programs::echo(&lab.internet, address);
        lab.guest.run(|| {
            let socket = UdpSocket::bind(own).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(address).unwrap();
            for length in [0, 1, 512, 1472, 9000, 65000] {
                let sent = vec![0x5a; length];
                socket.send(&sent).unwrap();
                let mut buffer = vec![0; 65536];
                let count = socket.recv(&mut buffer).unwrap();
                assert!(
                    buffer[..count] == sent,
                    "{address}: {count} of {length} bytes"
                );
            }
        });
    }
}

fn a_port_where_nobody_is_refuses_datagrams() {
    let lab = Lab::new();
    lab.guest.run(|| {
        for (own, address) in [
            ("0.0.0.0:0", "203.0.113.7:9"),
            ("[::]:0", "[2001:db8::7]:9"),
        ] {
            let socket = UdpSocket::bind(own).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(address).unwrap();
            socket.send(b"x").unwrap();
            let error = socket.recv(&mut [0]).unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{address}"
            );
        }
    });
}

fn hosts_answer_pings_over_ipv4_and_ipv6() {
    let lab = Lab::new();
    let gateways = ["10.0.2.2", "fd63:7275:6d62::2"];
    for host in [Lab::V4, Lab::V6, "203.0.113.1", gateways[0], gateways[1]] {
        for size in [56, 8000] {
            let said = lab
                .guest
                .sh(&format!("ping -c 3 -i 0.05 -W 10 -s {size} {host}"));
            assert!(said.contains(" 0% packet loss"), "{said}");
        }
    }
}

fn a_ping_to_where_there_is_no_way_says_so() {
    let lab = Lab::new();
    for host in ["198.51.100.1", "2001:db9::1"] {
        let said = lab.guest.try_sh(&format!("ping -c 1 -W 10 {host}"));
        assert_eq!(said.code, Some(1), "{said:?}");
        let why = ["Destination Host Unreachable", "Address unreachable"];
        assert!(why.iter().any(|why| said.out.contains(why)), "{said:?}");
    }
}
