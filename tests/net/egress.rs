//! What a guest may reach, and that it reaches nothing else.

use std::net::UdpSocket;

use crate::{
    lab::{Lab, Setup},
    namespace::{PATIENCE, Running},
    programs,
};

crate::tests![
    the_host_s_own_addresses_are_denied_by_default_in_every_form,
    the_host_s_own_addresses_are_reached_if_everything_is_allowed,
    a_guest_that_sends_loopback_addresses_to_the_gateway_is_refused_whatever_is_allowed,
    names_that_lead_to_the_host_s_own_addresses_are_denied,
    the_metadata_service_is_reached_if_it_is_allowed,
    a_port_of_the_host_is_reached_if_it_is_said_and_no_other,
    a_denied_network_is_denied_by_address_and_by_name_and_the_rest_is_not,
    with_a_list_of_what_is_allowed_everything_else_is_denied,
    datagrams_and_pings_are_denied_as_connections_are,
];

/// IPv4 in IPv6: by NAT64, and the compatible form of loopback and of the metadata service.
const TRANSLATED: [&str; 3] = ["64:ff9b::/96", "::7f00:1/128", "::a9fe:a9fe/128"];

/// A server at every address that a guest might not be meant to reach, and in the Internet, where a
/// translator seems to be.
fn servers(lab: &Lab) -> [Running; 2] {
    for network in TRANSLATED {
        let route = format!("ip route add {network} via {}", Lab::V6);
        lab.host.sh(&route);
        lab.internet
            .sh(&format!("ip route add local {network} dev lo"));
    }
    let own = [
        "127.0.0.1:80",
        "[::1]:80",
        "169.254.169.254:80",
        "203.0.113.1:80",
        "[::1]:81",
        "127.0.0.1:81",
    ];
    let away = [
        "203.0.113.7:80",
        "203.0.113.7:81",
        "203.0.113.53:80",
        "[::]:80",
    ];
    [
        programs::nginx(lab, &lab.host, "host", &own),
        programs::nginx(lab, &lab.internet, "internet", &away),
    ]
}

#[track_caller]
fn reached(lab: &Lab, at: &str, whom: &str) {
    let script = format!("curl -sS --max-time 20 'http://{at}/who'");
    let said = lab.guest.sh(&script);
    assert!(said.starts_with(whom), "{at}: {said}");
}

/// The guest is refused, at once.
#[track_caller]
fn refused(lab: &Lab, at: &str) {
    refused_with(lab, at, "");
}

#[track_caller]
fn refused_with(lab: &Lab, at: &str, options: &str) {
    let script = format!("curl -sS --max-time 20 {options} 'http://{at}/who'");
    let said = lab.guest.try_sh(&script);
    // It failed to connect.
    assert_eq!(said.code, Some(7), "{at}: {said:?}");
    assert_eq!(said.out, "", "{at}");
}

fn the_host_s_own_addresses_are_denied_by_default_in_every_form() {
    let lab = Lab::new();
    let _servers = servers(&lab);
    reached(&lab, "203.0.113.7", "internet");
    reached(&lab, "[2001:db8::7]", "internet");
    reached(&lab, "203.0.113.1", "host");
    for at in [
        // What stands for the host, and its metadata service.
        "10.0.2.3",
        "[fd63:7275:6d62::3]",
        "169.254.169.254",
        // As a guest's programs may write them.
        "[::ffff:169.254.169.254]",
        "[::ffff:10.0.2.3]",
        "0xa9fea9fe",
        // IPv4 in IPv6: compatible, and by NAT64.
        "[::169.254.169.254]",
        "[::127.0.0.1]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::0.0.0.0]",
        // The guest's own, where nobody is.
        "0.0.0.0",
        "127.0.0.1",
        "[::1]",
        "[::]",
    ] {
        refused(&lab, at);
    }
}

/// What the tests of refusals could not tell apart from servers that are not there.
fn the_host_s_own_addresses_are_reached_if_everything_is_allowed() {
    let lab = Lab::of("user,allow=*");
    let _servers = servers(&lab);
    for at in [
        "10.0.2.3",
        "[fd63:7275:6d62::3]",
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
    ] {
        reached(&lab, at, "host");
    }
    for at in [
        "[::127.0.0.1]",
        "[::169.254.169.254]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b::0.0.0.0]",
    ] {
        reached(&lab, at, "internet");
    }
    lab.guest.sh("ping -c 1 -W 10 169.254.169.254");
}

/// Kernels keep such packets to themselves, unless root of the guest wants otherwise.
fn a_guest_that_sends_loopback_addresses_to_the_gateway_is_refused_whatever_is_allowed() {
    let lab = Lab::of("user,allow=*");
    let _servers = servers(&lab);
    lab.guest.sh("set -e
        for network in all tap0; do
            echo 1 > /proc/sys/net/ipv4/conf/$network/route_localnet
        done
        ip route del local 127.0.0.0/8 dev lo table local
        ip route del local 127.0.0.1 dev lo table local
        ip -6 route del local ::1 dev lo table local");
    let routes = lab.guest.sh("ip route get 127.0.0.1; ip route get ::1");
    assert_eq!(routes.matches("dev tap0").count(), 2, "{routes}");
    for (own, at) in [
        ("10.0.2.15", "127.0.0.1"),
        ("10.0.2.15", "127.9.9.9"),
        ("fd63:7275:6d62::15", "[::1]"),
    ] {
        refused_with(&lab, at, &format!("--interface {own}"));
    }
}

fn names_that_lead_to_the_host_s_own_addresses_are_denied() {
    let lab = Lab::new();
    let _servers = servers(&lab);
    let names = [
        ("loopback.test", "127.0.0.1"),
        ("nothing.test", "0.0.0.0"),
        ("host.test", "10.0.2.3"),
        ("metadata.test", "169.254.169.254"),
        ("six.test", "::1"),
        ("mapped.test", "::ffff:169.254.169.254"),
        ("translated.test", "64:ff9b::a9fe:a9fe"),
    ];
    let options = names.map(|(name, address)| format!("--address=/{name}/{address}"));
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let _names = programs::dnsmasq(&lab, Lab::RESOLVER, &options);
    for (name, address) in names {
        let family = if address.contains(':') { "AAAA" } else { "A" };
        let found = lab.guest.sh(&format!("dig +short {name} {family}"));
        assert_ne!(found, "", "{name}");
        refused(&lab, name);
    }
    refused(&lab, "host.internal");
}

fn the_metadata_service_is_reached_if_it_is_allowed() {
    let lab = Lab::of("user,allow=169.254.169.254:80");
    let _servers = servers(&lab);
    reached(&lab, "169.254.169.254", "host");
    refused(&lab, "203.0.113.7");
    refused(&lab, "10.0.2.3");
}

fn a_port_of_the_host_is_reached_if_it_is_said_and_no_other() {
    let lab = Lab::of("user,host=80");
    let _servers = servers(&lab);
    for at in ["host.internal", "10.0.2.3", "[fd63:7275:6d62::3]"] {
        reached(&lab, at, "host");
        refused(&lab, &format!("{at}:81"));
    }
    reached(&lab, "203.0.113.7", "internet");
    refused(&lab, "169.254.169.254");
}

fn a_denied_network_is_denied_by_address_and_by_name_and_the_rest_is_not() {
    let lab = Lab::of("user,deny=203.0.113.7/32,deny=2001:db8::/64");
    let _servers = servers(&lab);
    let names = [
        "--address=/denied.test/203.0.113.7",
        "--address=/other.test/203.0.113.53",
    ];
    let _names = programs::dnsmasq(&lab, Lab::RESOLVER, &names);
    for at in [
        "203.0.113.7",
        "203.0.113.7:81",
        "denied.test",
        "[2001:db8::7]",
        "[::ffff:203.0.113.7]",
        "[64:ff9b::203.0.113.7]",
    ] {
        refused(&lab, at);
    }
    reached(&lab, "203.0.113.53", "internet");
    reached(&lab, "other.test", "internet");
}

fn with_a_list_of_what_is_allowed_everything_else_is_denied() {
    let lab = Lab::of("user,allow=203.0.113.7:80");
    let _servers = servers(&lab);
    reached(&lab, "203.0.113.7", "internet");
    reached(&lab, "[::ffff:203.0.113.7]", "internet");
    for at in [
        "203.0.113.7:81",
        "203.0.113.53",
        "203.0.113.1",
        "[2001:db8::7]",
        "10.0.2.3",
    ] {
        refused(&lab, at);
    }
}

fn datagrams_and_pings_are_denied_as_connections_are() {
    let lab = Lab::start(Setup {
        network: "user,deny=203.0.113.7/32",
        ..Setup::default()
    });
    for (place, at) in [
        (&lab.internet, "203.0.113.7:7"),
        (&lab.host, "127.0.0.1:7"),
        (&lab.host, "169.254.169.254:7"),
    ] {
        programs::echo(place, at);
    }
    programs::echo(&lab.internet, "203.0.113.53:7");
    let answered = |at: &str| {
        lab.guest.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(at).unwrap();
            socket.send(b"x").and_then(|_| socket.recv(&mut [0]))
        })
    };
    assert_eq!(answered("203.0.113.53:7").unwrap(), 1);
    for at in ["203.0.113.7:7", "10.0.2.3:7", "169.254.169.254:7"] {
        let error = answered(at).unwrap_err();
        // The guest hears it: no time is lost.
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{at}");
    }
    for host in ["203.0.113.7", "169.254.169.254", "64:ff9b::169.254.169.254"] {
        let said = lab.guest.try_sh(&format!("ping -c 1 -W 5 {host}"));
        assert_eq!(said.code, Some(1), "{said:?}");
    }
    lab.guest.sh("ping -c 1 -W 10 203.0.113.53");
}
