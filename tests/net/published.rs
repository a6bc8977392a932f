//! Ports of the host that lead to the guest.

use std::net::UdpSocket;

use crate::{
    lab::{Lab, Setup},
    namespace::PATIENCE,
    programs,
};

crate::tests![
    the_internet_reaches_published_ports_over_tcp_and_udp,
    a_port_published_at_one_address_is_closed_at_others,
    a_published_port_without_a_server_in_the_guest_is_closed,
];

fn the_internet_reaches_published_ports_over_tcp_and_udp() {
    let lab = Lab::start(Setup {
        publish: &[
            "0.0.0.0:8080:80",
            "[::]:8080:80",
            "0.0.0.0:7000:7/udp",
            "[::]:7000:7/udp",
        ],
        ..Setup::default()
    });
    let _server = programs::nginx(&lab, &lab.guest, "guest", &["0.0.0.0:80", "[::]:80"]);
    let _echoes = ["0.0.0.0:7", "[fd63:7275:6d62::15]:7"].map(|at| programs::echo(&lab.guest, at));
    for (base, own) in [("203.0.113.1", Lab::V4), ("[2001:db8::1]", Lab::V6)] {
        let who = lab.internet.sh(&format!("curl -sS http://{base}:8080/who"));
        assert_eq!(who, format!("guest {own}"));
        let own = std::net::SocketAddr::new(own.parse().unwrap(), 0);
        lab.internet.run(move || {
            let socket = UdpSocket::bind(own).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(format!("{base}:7000")).unwrap();
            for length in [1, 1400, 9000] {
                let sent = vec![7; length];
                socket.send(&sent).unwrap();
                let mut buffer = vec![0; 10_000];
                let count = socket.recv(&mut buffer).unwrap();
                assert!(buffer[..count] == sent, "{base}: {count} of {length} bytes");
            }
        });
    }
}

fn a_port_published_at_one_address_is_closed_at_others() {
    let lab = Lab::start(Setup {
        publish: &["203.0.113.2:8080:80", "8081:80"],
        ..Setup::default()
    });
    let _server = programs::nginx(&lab, &lab.guest, "guest", &["0.0.0.0:80"]);
    lab.internet.sh("curl -sS http://203.0.113.2:8080/who");
    // What nothing is said about is for programs of the host.
    lab.host.sh("curl -sS http://127.0.0.1:8081/who");
    for closed in ["203.0.113.1:8080", "[2001:db8::1]:8080", "203.0.113.1:8081"] {
        let said = lab
            .internet
            .try_sh(&format!("curl -sS http://{closed}/who"));
        // It failed to connect.
        assert_eq!(said.code, Some(7), "{closed}: {said:?}");
    }
}

fn a_published_port_without_a_server_in_the_guest_is_closed() {
    let lab = Lab::start(Setup {
        publish: &["203.0.113.1:8080:80"],
        ..Setup::default()
    });
    let said = lab.internet.try_sh("curl -sS http://203.0.113.1:8080/who");
    // The host's kernel had accepted: an empty reply, or a reset of what is sent or received.
    assert!(matches!(said.code, Some(52 | 55 | 56)), "{said:?}");
}
