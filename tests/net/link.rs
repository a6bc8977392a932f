//! The link itself: its rate, its record, its kinds of addresses.

use std::{
    fs::{self, File},
    time::Instant,
};

use crate::{
    lab::{Lab, Setup},
    programs,
};

crate::tests![
    a_link_is_no_faster_than_its_rate,
    tcpdump_reads_what_was_recorded,
    a_guest_without_ipv4_has_everything_over_ipv6,
    a_link_of_ethernet_s_mtu_carries_everything,
];

/// In MiB.
const FILE: u32 = 10;

/// A server in the Internet, with a file.
fn server(lab: &Lab) -> (crate::namespace::Running, String) {
    let addresses = ["203.0.113.7:80", "[2001:db8::7]:80"];
    let server = programs::nginx(lab, &lab.internet, "internet", &addresses);
    let www = lab.directory().join("internet/www");
    fs::create_dir(&www).unwrap();
    let sum = programs::file(&lab.internet, &www.join("file"), FILE);
    (server, sum)
}

fn a_link_is_no_faster_than_its_rate() {
    // 10 MB a second, of which a tenth may go at once.
    let lab = Lab::of("user,rate=80M");
    let (_server, sum) = server(&lab);
    let least = (f64::from(FILE) * 1_048_576.0 - 1e6) / 1e7;
    let begin = Instant::now();
    let fetched = lab.guest.sh("curl -sS http://203.0.113.7/file | sha256sum");
    let took = begin.elapsed().as_secs_f64();
    assert_eq!(fetched, sum);
    assert!(took > least, "receiving took {took} s, not {least}");
    let mut taker = crate::peer::command("listen", "203.0.113.7:7000", "take", 10 << 20);
    taker.stdout(std::process::Stdio::null());
    let mut taker = lab.internet.spawn(taker);
    crate::bulk::await_port(&lab.internet);
    let begin = Instant::now();
    let mut sender = crate::peer::command("connect", "203.0.113.7:7000", "send", 10 << 20);
    sender.stdout(std::process::Stdio::null());
    assert!(lab.guest.spawn(sender).0.wait().unwrap().success());
    let took = begin.elapsed().as_secs_f64();
    assert!(taker.0.wait().unwrap().success());
    assert!(took > least, "sending took {took} s, not {least}");
}

fn tcpdump_reads_what_was_recorded() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lab = Lab::start(Setup {
        record: Some(File::create(file.path()).unwrap()),
        ..Setup::default()
    });
    let (_server, sum) = server(&lab);
    lab.guest.sh("ping -c 1 203.0.113.7");
    for host in ["203.0.113.7", "[2001:db8::7]"] {
        let fetched = lab
            .guest
            .sh(&format!("curl -sS http://{host}/file | sha256sum"));
        assert_eq!(fetched, sum);
    }
    let path = file.path().display();
    let said = lab.host.try_sh(&format!("tcpdump -n -r {path}"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    // It says what it reads, and would say if that were cut or damaged.
    let errors: Vec<_> = said
        .err
        .lines()
        .filter(|line| !line.starts_with("reading from"))
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    for word in [
        "IP 10.0.2.15 > 203.0.113.7: ICMP echo request",
        "IP 203.0.113.7 > 10.0.2.15: ICMP echo reply",
        "203.0.113.7.80: Flags [S]",
        "2001:db8::7.80: Flags [S]",
        "HTTP: GET /file",
    ] {
        assert!(said.out.contains(word), "{word}");
    }
    for word in ["[|", "truncated", "bad-len", "invalid"] {
        assert!(!said.out.contains(word), "{word}");
    }
}

fn a_guest_without_ipv4_has_everything_over_ipv6() {
    let lab = Lab::start(Setup {
        only_v6: true,
        ..Setup::default()
    });
    let names = [
        "--address=/www.test/203.0.113.7",
        "--address=/www.test/2001:db8::7",
    ];
    let _names = programs::dnsmasq(&lab, Lab::RESOLVER, &names);
    let (_server, sum) = server(&lab);
    let addresses = lab.guest.sh("ip -4 address show dev tap0");
    assert_eq!(addresses, "");
    let fetched = lab.guest.sh("curl -sS http://www.test/file | sha256sum");
    assert_eq!(fetched, sum);
    lab.guest.sh("ping -c 1 -W 10 2001:db8::7");
    assert_eq!(
        lab.guest.sh("dig +short host.internal AAAA"),
        "fd63:7275:6d62::3\n"
    );
    assert_eq!(lab.guest.sh("dig +short host.internal A"), "");
}

fn a_link_of_ethernet_s_mtu_carries_everything() {
    let lab = Lab::of("user,mtu=1500");
    let (_server, sum) = server(&lab);
    for host in ["203.0.113.7", "[2001:db8::7]"] {
        let fetched = lab
            .guest
            .sh(&format!("curl -sS http://{host}/file | sha256sum"));
        assert_eq!(fetched, sum);
    }
    lab.guest.sh("ping -c 1 -W 10 -s 8000 203.0.113.7");
}
