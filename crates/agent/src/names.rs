//! What the guest calls itself and others: /etc/hosts and /etc/resolv.conf.

use std::{
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use wire::agent::{Network, Setup};

use crate::{error::Result, files};

const HOSTS: &str = "/etc/hosts";
const RESOLVER: &str = "/etc/resolv.conf";

/// The guest's own address where it has no other, as Debian has it.
const SELF: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));

/// An address and its names, the first of which decides whether the line is needed.
type Line<'a> = (IpAddr, &'a [&'a str]);

/// Names the guest, and whom the host says that it should know.
pub(crate) fn hosts(setup: &Setup) -> Result<()> {
    // There may be none.
    let existing = fs::read(HOSTS).unwrap_or_default();
    let missing = missing(&String::from_utf8_lossy(&existing), setup);
    if missing.is_empty() {
        return Ok(());
    }
    let separator: &[u8] = match existing.last() {
        None | Some(b'\n') => b"",
        Some(_) => b"\n",
    };
    files::put(HOSTS, &[&existing, separator, missing.as_bytes()].concat())
}

/// Says whom the guest asks for addresses, if the host says so.
pub(crate) fn resolver(network: &Network) -> Result<()> {
    if network.nameservers.is_empty() {
        return Ok(());
    }
    files::put(RESOLVER, resolver_text(network).as_bytes())
}

/// As in resolv.conf(5).
fn resolver_text(network: &Network) -> String {
    let mut text = String::new();
    for server in &network.nameservers {
        // Writing to a string does not fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    if !network.search.is_empty() {
        let _ = writeln!(text, "search {}", network.search.join(" "));
    }
    text
}

/// The lines, as in hosts(5), that `existing` lacks. What it says of a name stands.
fn missing(existing: &str, setup: &Setup) -> String {
    let hostname = [setup.hostname.as_str()];
    let addresses = setup.network.iter().flat_map(|network| &network.addresses);
    let mut own: Vec<IpAddr> = addresses.map(|(address, _)| *address).collect();
    if own.is_empty() {
        own.push(SELF);
    }
    let others = setup.network.iter().flat_map(|network| &network.hosts);
    let others: Vec<_> = others.map(|(at, name)| (*at, [name.as_str()])).collect();
    let localhost: [Line<'_>; 2] = [
        (Ipv4Addr::LOCALHOST.into(), &["localhost"]),
        (Ipv6Addr::LOCALHOST.into(), &["localhost", "ip6-localhost"]),
    ];
    let lines = localhost
        .into_iter()
        .chain(own.iter().map(|address| (*address, hostname.as_slice())))
        .chain(
            others
                .iter()
                .map(|(address, name)| (*address, name.as_slice())),
        );
    let mut text = String::new();
    for (address, names) in lines.filter(|line| !is_known(existing, line)) {
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    text
}

/// Whether some line gives the first name an address of the same kind.
fn is_known(existing: &str, (address, names): &Line<'_>) -> bool {
    existing.lines().any(|line| {
        let text = line.split('#').next().unwrap_or_default();
        let mut words = text.split_whitespace();
        let known = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        let same = |name: &str| names.first().is_some_and(|n| n.eq_ignore_ascii_case(name));
        known.is_some_and(|known| known.is_ipv4() == address.is_ipv4()) && words.any(same)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::agent::{Root, VERSION};

    use super::*;

    fn network() -> Network {
        Network {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            addresses: vec![
                ([10, 0, 2, 15].into(), 24),
                ("fd00::f".parse().unwrap(), 64),
            ],
            gateways: Vec::new(),
            nameservers: vec![[10, 0, 2, 3].into(), "fd00::3".parse().unwrap()],
            search: vec!["example.org".into(), "example.com".into()],
            hosts: vec![
                ([10, 0, 2, 2].into(), "host.internal".into()),
                ([10, 0, 2, 1].into(), "gateway.internal".into()),
            ],
        }
    }

    fn setup(network: Option<Network>) -> Setup {
        Setup {
            version: VERSION,
            hostname: "guest".into(),
            root: Root::Initramfs,
            directories: Vec::new(),
            shares: Vec::new(),
            mounts: Vec::new(),
            network,
            init: None,
            terminal: false,
        }
    }

    #[test]
    fn an_absent_file_becomes_one_of_localhost_and_self() {
        let lines = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\tguest\n";
        assert_eq!(missing("", &setup(None)), lines);
    }

    #[test]
    fn a_network_names_the_guest_s_addresses_and_the_host() {
        let existing = "127.0.0.1 localhost\n::1 ip6-localhost localhost # both\n";
        let lines = "10.0.2.15\tguest\nfd00::f\tguest\n10.0.2.2\thost.internal\n\
            10.0.2.1\tgateway.internal\n";
        assert_eq!(missing(existing, &setup(Some(network()))), lines);
    }

    #[test]
    fn what_the_image_says_of_a_name_stands() {
        let existing = "127.0.0.1 localhost\n::1 localhost\n192.0.2.1 Guest # guest\n";
        assert_eq!(missing(existing, &setup(None)), "");
        let missing = missing("#192.0.2.1 guest\n", &setup(None));
        assert!(missing.contains("127.0.1.1\tguest\n"));
    }

    #[test]
    fn a_resolver_has_servers_and_search_in_order() {
        let text = "nameserver 10.0.2.3\nnameserver fd00::3\nsearch example.org example.com\n";
        assert_eq!(resolver_text(&network()), text);
    }

    proptest! {
        #[test]
        fn whatever_the_image_has_nothing_is_missing_afterwards(
            existing in "([a-z0-9.: \t#\n]|guest|localhost|127.0.0.1|::1){0,60}"
        ) {
            let setup = setup(Some(network()));
            let missing_once = missing(&existing, &setup);
            let whole = format!("{existing}\n{missing_once}");
            prop_assert_eq!(missing(&whole, &setup), "");
        }
    }
}
