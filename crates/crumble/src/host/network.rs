//! What this host has for machines' networks.

use std::{fs, io};

use nix::unistd::{getegid, geteuid};

use super::{Finding, Verdict};
use crate::network::{
    resolver::{PATH, Resolver},
    tap,
};

/// Below this, ports are root's (ip(7)); Linux' own default where it cannot be read.
pub(crate) fn unprivileged_port_start() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

pub(super) fn name_servers() -> Finding {
    let read = Resolver::of_host();
    let (verdict, detail) = match read.warning() {
        Some(warning) => (Verdict::Poor, warning),
        None => {
            let servers = read.unwrap_or_default().nameservers;
            let servers: Vec<_> = servers.iter().map(|one| one.ip().to_string()).collect();
            (Verdict::Good, format!("{} ({PATH})", servers.join(", ")))
        }
    };
    Finding {
        what: "name servers",
        verdict,
        detail,
    }
}

pub(super) fn ping() -> Finding {
    const PATH: &str = "/proc/sys/net/ipv4/ping_group_range";
    let allowed = fs::read_to_string(PATH)
        .ok()
        .and_then(|text| ping_groups(&text));
    let (verdict, detail) = match allowed {
        Some((first, last)) if (first..=last).contains(&dialer_group()) => {
            (Verdict::Good, "guests can ping".to_owned())
        }
        _ => (
            Verdict::Poor,
            "guests cannot ping beyond their gateway: `sudo sysctl \
             net.ipv4.ping_group_range='0 2147483647'` lets them"
                .to_owned(),
        ),
    };
    Finding {
        what: "ping",
        verdict,
        detail,
    }
}

/// First and last group that may have sockets for echo requests (icmp(7)).
fn ping_groups(text: &str) -> Option<(u32, u32)> {
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// The group that the dialer has outside of its namespace: the caller's, or if that is root one of
/// its own, from 0x7000_0000 on (`jailer::effective`).
fn dialer_group() -> u32 {
    if geteuid().is_root() {
        0x7000_0000
    } else {
        getegid().as_raw()
    }
}

pub(super) fn tap_devices() -> Finding {
    let (verdict, detail) = match tap::open_device() {
        Ok(_) => (
            Verdict::Good,
            format!("{} can be opened, for --network tap=NAME", tap::DEVICE),
        ),
        Err(error) => {
            let mend = match error.kind() {
                io::ErrorKind::NotFound => "`sudo modprobe tun` mends that",
                _ => "it is for --network tap=NAME only",
            };
            let detail = format!("{} cannot be opened ({error}); {mend}", tap::DEVICE);
            (Verdict::Poor, detail)
        }
    };
    Finding {
        what: "TAP devices",
        verdict,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_may_ping_are_a_range_of_two_numbers() {
        assert_eq!(ping_groups("0\t2147483647\n"), Some((0, 2_147_483_647)));
        // Linux' own default: nobody.
        let (first, last) = ping_groups("1\t0\n").unwrap();
        assert!((first..=last).is_empty());
        assert_eq!(ping_groups("1"), None);
    }

    #[test]
    fn each_finding_says_something() {
        for finding in [name_servers(), ping(), tap_devices()] {
            assert!(!finding.detail.is_empty() && finding.verdict != Verdict::Missing);
        }
    }
}
