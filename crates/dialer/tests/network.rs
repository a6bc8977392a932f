//! What takes a network of the test's own: echo requests, which hosts may forbid, and hosts that
//! cannot be reached.

mod rig;

use std::net::SocketAddr;
use std::process::Command;

use rig::{Rig, all_but, config, guest};
use wire::net::{Failure, Kind, Tell};

/// Runs another test of this file, as root of new namespaces in which everybody may ping.
fn in_a_network_of_its_own(test: &str) {
    let script = "ip link set lo up && echo 0 0 > /proc/sys/net/ipv4/ping_group_range && \
                  exec \"$0\" --exact --ignored --nocapture \"$1\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .output()
        .expect("unshare (util-linux) and ip (iproute2) are needed");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}{errors}");
}

#[test]
fn echo_requests_are_answered() {
    in_a_network_of_its_own("inner_echo");
}

#[test]
#[ignore = "runs in a network of its own"]
fn inner_echo() {
    let rig = Rig::start(config(all_but(&["127.0.0.2/32"])), vec![]);
    for host in ["127.0.0.1", "::1"] {
        let remote = SocketAddr::new(host.parse().unwrap(), 0);
        for (identifier, sequence, size) in [(1, 1, 56), (1, 2, 0), (2, 1, 8), (2, 65535, 60_000)] {
            let (kind, payload) = (Kind::Echo { sequence }, vec![0x5a; size]);
            rig.device.send(kind, identifier, remote, &payload);
            let expected = (guest(identifier), remote, kind, payload);
            assert!(rig.device.heard() == expected, "{host} {sequence}");
        }
    }
    let denied = SocketAddr::from(([127, 0, 0, 2], 0));
    rig.device.send(Kind::Echo { sequence: 1 }, 1, denied, b"x");
    assert_eq!(rig.device.heard().2, Kind::Denied);
    rig.device.assert_silence();
    rig.end().unwrap();
}

#[test]
fn hosts_to_which_there_is_no_way_are_unreachable() {
    in_a_network_of_its_own("inner_unreachable");
}

#[test]
#[ignore = "runs in a network of its own"]
fn inner_unreachable() {
    let rig = Rig::start(config(all_but(&[])), vec![]);
    for (id, host) in (0..).zip(["192.0.2.1", "2001:db8::1", "64:ff9b::192.0.2.1", "fe80::1"]) {
        let remote = SocketAddr::new(host.parse().unwrap(), 1);
        rig.device.connect(id, remote);
        let why = Failure::Unreachable;
        assert_eq!(rig.device.told().0, Tell::Failed { id, why }, "{host}");
        let echo = SocketAddr::new(remote.ip(), 0);
        for (kind, remote) in [(Kind::Udp, remote), (Kind::Echo { sequence: 1 }, echo)] {
            rig.device.send(kind, 9, remote, b"x");
            let expected = (guest(9), remote, Kind::Unreachable, vec![]);
            assert_eq!(rig.device.heard(), expected, "{host}");
        }
    }
    rig.end().unwrap();
}
