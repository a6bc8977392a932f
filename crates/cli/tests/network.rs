//! `crumble network` and what is said of networks before a machine is made, as people meet it: each
//! time in a network namespace of the test's own.

use std::process::{Command, Output};

/// Runs a shell's script with `crumble` as `$0`, as root of a network of its own.
fn as_root(script: &str) -> Output {
    unshare(&["--user", "--map-root-user", "--net"], script)
}

/// The same without any rights.
fn as_nobody(script: &str) -> Output {
    unshare(&["--user", "--net"], script)
}

fn unshare(namespaces: &[&str], script: &str) -> Output {
    Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", script, env!("CARGO_BIN_EXE_crumble")])
        .env_remove("SUDO_UID")
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, words: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    for word in words {
        assert!(errors.contains(word), "\"{word}\" is missing in: {errors}");
    }
}

#[test]
fn a_device_on_a_bridge_and_one_with_addresses_come_and_go() {
    let text = succeeds(as_root(
        "set -e
         ip link add br0 type bridge
         \"$0\" network create t0 --bridge br0
         \"$0\" network create t1 --address 10.9.0.1/24 --address fd09::1/64 --user root
         \"$0\" network ls
         \"$0\" network rm t0
         \"$0\" network rm t1
         \"$0\" network ls",
    ));
    let lines: Vec<Vec<_>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[1], ["t0", "root", "free", "br0"]);
    assert_eq!(lines[2][..4], ["t1", "root", "free", "10.9.0.1/24"]);
    assert!(lines[2].contains(&"fd09::1/64"));
    assert_eq!(text.lines().last(), Some("This host has no TAP device."));
}

#[test]
fn who_called_sudo_owns_what_root_makes_for_them() {
    // In this namespace no other user than root has a number.
    let text = succeeds(as_root(
        "SUDO_UID=0 \"$0\" network create t0 && \"$0\" network ls",
    ));
    assert!(text.contains("t0              root         free"), "{text}");
}

#[test]
fn without_rights_the_line_with_sudo_is_said() {
    let program = env!("CARGO_BIN_EXE_crumble");
    let create = "network create t0 --address 10.9.0.1/24";
    let line = format!("`sudo {program} {create}`");
    let output = as_nobody(&format!("\"$0\" {create}"));
    fails(&output, 125, &["cannot make t0", "root's rights", &line]);
}

#[test]
fn what_cannot_be_made_or_removed_says_why() {
    let said = |script, words: &[&str]| fails(&as_root(script), 125, words);
    said("\"$0\" network create lo", &["cannot make lo", "already"]);
    said(
        "\"$0\" network create t0 --bridge br0",
        &["no bridge br0", "`sudo ip link add br0 type bridge"],
    );
    said(
        "\"$0\" network create t0 --user nobody-of-this-name",
        &["no user \"nobody-of-this-name\""],
    );
    said("\"$0\" network rm t0", &["no such interface"]);
    said("\"$0\" network rm lo", &["no TAP device"]);
    said(
        "PATH=/nowhere; \"$0\" network ls",
        &["`ip`, of the package iproute2"],
    );
}

#[test]
fn names_and_addresses_that_make_no_sense_are_usage_errors() {
    for (arguments, word) in [
        ("create a/b", "not an interface's name"),
        ("create tap%d", "not an interface's name"),
        ("create name-of-sixteen-b", "1 to 15 bytes"),
        ("create t0 --address 10.9.0.1", "10.9.0.1"),
        ("create t0 --address 10.9.0.1/33", "0 to 32"),
        (
            "create t0 --address 10.9.0.1/24 --bridge b",
            "cannot be used with",
        ),
        ("rm", "NAME"),
    ] {
        let output = as_nobody(&format!("\"$0\" network {arguments}"));
        fails(&output, 2, &[word]);
    }
}

#[test]
fn networks_that_make_no_sense_are_usage_errors() {
    for (option, value, word) in [
        ("--network", "bridge", "no network \"bridge\""),
        ("--network", "none,mtu=1500", "nothing to set"),
        ("--network", "user,allow=10.0.0.0/33", "0 to 32"),
        ("--network", "user,allow=ten/8", "not an address"),
        (
            "--network",
            "user,deny=10.0.0.1/8",
            "10.0.0.0/8 is the network",
        ),
        ("--network", "user,deny=*:99999", "not a port"),
        ("--network", "user,deny=*:9-8", "not a port"),
        ("--network", "user,mtu=1279", "1280 to 65520"),
        ("--network", "user,mtu=65521", "1280 to 65520"),
        ("--network", "user,rate=fast", "as in 100M"),
        (
            "--network",
            "user,address=10.9.0.2/24",
            "\"address\" is for a TAP device",
        ),
        (
            "--network",
            "tap=t,allow=10.0.0.0/8",
            "\"allow\" is for the network \"user\"",
        ),
        ("--network", "tap=a/b", "not an interface's name"),
        ("--network", "tap=t,address=10.9.0.2", "as in 192.0.2.2/24"),
        ("--network", "tap=t,gateway=10.9.0.1", "without an address"),
        ("-p", "99999:80", "not a port"),
        ("-p", "80:", "not a port"),
        ("-p", "8080:0", "the guest's port is 0"),
        ("-p", "1-3:1-2", "3 ports of the host lead to 2"),
        ("-p", "80/sctp", "no protocol \"sctp\""),
        ("-p", "localhost:80:80", "\"localhost\" is not an address"),
        ("-p", "::1:80:80", "in brackets"),
    ] {
        let output = as_nobody(&format!("\"$0\" run {option} '{value}' host -- true"));
        fails(&output, 2, &[word]);
    }
}

#[test]
fn ports_that_cannot_be_led_anywhere_are_named_before_anything_is_looked_for() {
    for (options, word) in [
        (
            "-p 8080:80 -p 8080:81",
            "127.0.0.1:8080:81/tcp is to be published twice",
        ),
        ("-p 0.0.0.0:53:53/udp -p 53:5353/udp", "published twice"),
        ("--network none -p 80", "leave out -p"),
        ("--network tap=t -p 80", "leave out -p"),
    ] {
        let output = as_nobody(&format!("\"$0\" run {options} host -- true"));
        fails(&output, 125, &[word]);
    }
}
