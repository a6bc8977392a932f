//! Names, by dnsmasq and dig.

use std::net::UdpSocket;

use crate::{
    lab::{Lab, Setup},
    programs,
};

crate::tests![
    a_guest_finds_the_names_that_the_host_s_name_server_knows,
    a_guest_finds_the_host_and_the_gateway_by_name,
    long_answers_come_over_tcp,
    a_name_server_that_is_dead_or_fails_is_passed_over,
    without_a_name_server_a_guest_hears_so_at_once,
    programs_resolve_names_by_themselves,
];

const NAMES: &[&str] = &[
    "--address=/www.test/203.0.113.7",
    "--address=/www.test/2001:db8::7",
    "--txt-record=text.test,hello",
];

/// What dig prints about a question.
fn dig(lab: &Lab, question: &str) -> String {
    lab.guest
        .sh(&format!("dig +short +timeout=5 +tries=2 {question}"))
}

fn a_guest_finds_the_names_that_the_host_s_name_server_knows() {
    let lab = Lab::new();
    let _server = programs::dnsmasq(&lab, Lab::RESOLVER, NAMES);
    for server in ["", "@10.0.2.2", "@fd63:7275:6d62::2"] {
        assert_eq!(dig(&lab, &format!("{server} www.test A")), "203.0.113.7\n");
        assert_eq!(
            dig(&lab, &format!("{server} www.test AAAA")),
            "2001:db8::7\n"
        );
        assert_eq!(dig(&lab, &format!("{server} text.test TXT")), "\"hello\"\n");
        assert_eq!(
            dig(&lab, &format!("{server} +tcp www.test A")),
            "203.0.113.7\n"
        );
    }
}

fn a_guest_finds_the_host_and_the_gateway_by_name() {
    let lab = Lab::start(Setup {
        resolver: Some(""),
        ..Setup::default()
    });
    assert_eq!(dig(&lab, "host.internal A"), "10.0.2.3\n");
    assert_eq!(dig(&lab, "host.internal AAAA"), "fd63:7275:6d62::3\n");
    assert_eq!(dig(&lab, "gateway.internal A"), "10.0.2.2\n");
    assert_eq!(dig(&lab, "gateway.internal AAAA"), "fd63:7275:6d62::2\n");
}

fn long_answers_come_over_tcp() {
    let lab = Lab::new();
    let parts = vec!["x".repeat(250); 10].join(",");
    let record = format!("--txt-record=long.test,{parts}");
    let _server = programs::dnsmasq(&lab, Lab::RESOLVER, &[&record]);
    // By UDP without extensions there is room for 512 bytes.
    let cut = lab.guest.sh("dig +noedns +ignore long.test TXT");
    assert!(cut.contains("flags: qr aa tc"), "{cut}");
    let whole = lab.guest.sh("dig +noedns long.test TXT");
    assert!(whole.contains("(TCP)"), "{whole}");
    assert_eq!(whole.matches(&"x".repeat(250)).count(), 10);
}

fn a_name_server_that_is_dead_or_fails_is_passed_over() {
    // Nobody is there; there is no way; it says nothing; it fails.
    for first in ["203.0.113.2", "198.51.100.1", Lab::V6, Lab::V4] {
        let resolver = format!("nameserver {first}\nnameserver {}\n", Lab::RESOLVER);
        let lab = Lab::start(Setup {
            resolver: Some(&resolver),
            ..Setup::default()
        });
        let silent = lab.internet.run(|| UdpSocket::bind((Lab::V6, 53)).unwrap());
        programs::failing_name_server(&lab.internet, Lab::V4);
        let _server = programs::dnsmasq(&lab, Lab::RESOLVER, NAMES);
        assert_eq!(dig(&lab, "www.test A"), "203.0.113.7\n", "{first}");
        drop(silent);
    }
}

fn without_a_name_server_a_guest_hears_so_at_once() {
    let lab = Lab::start(Setup {
        resolver: Some(""),
        ..Setup::default()
    });
    let said = lab.guest.try_sh("dig +tries=1 +timeout=25 www.test");
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(!said.out.contains("timed out"), "{said:?}");
    let said = lab.guest.try_sh("getent hosts www.test");
    assert_eq!(said.code, Some(2), "{said:?}");
}

fn programs_resolve_names_by_themselves() {
    let lab = Lab::new();
    let _names = programs::dnsmasq(&lab, Lab::RESOLVER, NAMES);
    let addresses = ["203.0.113.7:80", "[2001:db8::7]:80"];
    let _server = programs::nginx(&lab, &lab.internet, "internet", &addresses);
    for family in ["-4", "-6"] {
        let said = lab
            .guest
            .sh(&format!("curl -sS {family} http://www.test/who"));
        assert!(said.starts_with("internet "), "{said}");
    }
}
