//! HTTP, by nginx and curl.

use std::fs;

use crate::{
    lab::{Lab, Setup},
    namespace::Namespace,
    programs::{file, nginx},
};

crate::tests![
    a_guest_fetches_a_large_file_over_ipv4_and_ipv6,
    the_internet_fetches_a_large_file_from_the_guest_over_ipv4_and_ipv6,
    one_connection_serves_many_requests,
    what_is_refused_or_unreachable_is_so_for_the_guest,
];

/// In MiB.
const LARGE: u32 = 100;

/// Makes the large file of a server, and fetches it from `base`.
fn fetch(lab: &Lab, client: &Namespace, name: &str, bases: &[String]) {
    let www = lab.directory().join(name).join("www");
    fs::create_dir(&www).unwrap();
    let sum = file(&lab.host, &www.join("large"), LARGE);
    for base in bases {
        let fetched = client.sh(&format!("curl -sS --max-time 30 {base}/large | sha256sum"));
        assert_eq!(fetched, sum, "{base}");
    }
}

fn a_guest_fetches_a_large_file_over_ipv4_and_ipv6() {
    let lab = Lab::new();
    let _server = nginx(
        &lab,
        &lab.internet,
        "internet",
        &["203.0.113.7:80", "[2001:db8::7]:80"],
    );
    let bases = [Lab::V4.to_owned(), format!("[{}]", Lab::V6)].map(|at| format!("http://{at}"));
    fetch(&lab, &lab.guest, "internet", &bases);
}

fn the_internet_fetches_a_large_file_from_the_guest_over_ipv4_and_ipv6() {
    let lab = Lab::start(Setup {
        publish: &["203.0.113.1:8080:80", "[2001:db8::1]:8080:80"],
        ..Setup::default()
    });
    let _server = nginx(&lab, &lab.guest, "guest", &["0.0.0.0:80", "[::]:80"]);
    let bases = ["http://203.0.113.1:8080", "http://[2001:db8::1]:8080"].map(str::to_owned);
    fetch(&lab, &lab.internet, "guest", &bases);
    // The guest sees who it is.
    for (base, peer) in bases.iter().zip([Lab::V4, Lab::V6]) {
        let who = lab.internet.sh(&format!("curl -sS {base}/who"));
        assert_eq!(who, format!("guest {peer}"));
    }
}

fn one_connection_serves_many_requests() {
    let lab = Lab::new();
    let _server = nginx(&lab, &lab.internet, "internet", &["203.0.113.7:80"]);
    let script = "curl -sS -o /dev/null -w '%{http_code} %{num_connects}\\n' \
                  'http://203.0.113.7/who?[1-200]'";
    let lines = lab.guest.sh(script);
    let all: Vec<_> = lines.lines().collect();
    assert_eq!((all.len(), all[0]), (200, "200 1"));
    assert!(all[1..].iter().all(|line| *line == "200 0"), "{lines}");
}

fn what_is_refused_or_unreachable_is_so_for_the_guest() {
    let lab = Lab::new();
    for (at, why) in [
        ("203.0.113.7:81", "Connection refused"),
        ("[2001:db8::7]:81", "Connection refused"),
        ("198.51.100.1", "No route to host"),
        ("[2001:db9::1]", "No route to host"),
    ] {
        let said = lab
            .guest
            .try_sh(&format!("curl -v --max-time 20 http://{at}/"));
        assert_eq!(said.code, Some(7), "{at}: {said:?}");
        assert!(said.err.contains(why), "{at}: {said:?}");
    }
}
