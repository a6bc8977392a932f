//! The host's resolver: whom it asks, and for which domains (resolv.conf(5)).

use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use supervisor::Nameservers;

/// Where programs of the host look.
pub(crate) const PATH: &str = "/etc/resolv.conf";

/// The most that is read of it.
const LONGEST_FILE: u64 = 64 << 10;

/// The most name servers that are asked, and domains that are tried: a multiple of what C
/// libraries take.
const MOST: usize = 16;

/// The longest name of a domain (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;

/// The port of DNS.
const PORT: u16 = 53;

/// What the host's resolver is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    /// Whom it asks, in order.
    pub(crate) nameservers: Vec<SocketAddr>,
    /// What it appends to names, in order.
    pub(crate) search: Vec<String>,
}

/// A resolver, or why there is none.
pub(crate) struct Found(Result<Resolver, io::Error>);

impl Resolver {
    /// The host's.
    pub(crate) fn of_host() -> Found {
        Found(read(Path::new(PATH)))
    }

    /// What the text of a resolv.conf says. A name server with a scope, which is one of a link that
    /// only this host is on, is left out; so is all that is not understood, as C libraries do.
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            // A comment has its mark in the first column.
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    resolver
                        .nameservers
                        .extend(address.map(|address| SocketAddr::new(address, PORT)));
                }
                // The last line of either kind counts.
                Some("search" | "domain") => {
                    resolver.search = words.filter_map(domain).take(MOST).collect();
                }
                _ => {}
            }
        }
        resolver.nameservers.truncate(MOST);
        resolver
    }
}

impl Found {
    /// What the caller should know.
    pub(crate) fn warning(&self) -> Option<String> {
        match &self.0 {
            Ok(resolver) if resolver.nameservers.is_empty() => Some(format!(
                "{PATH} names no name server that a guest could use, so the guest finds no names"
            )),
            Ok(_) => None,
            Err(error) => Some(format!(
                "{PATH} cannot be read ({error}), so the guest finds no names"
            )),
        }
    }

    pub(crate) fn unwrap_or_default(self) -> Resolver {
        self.0.unwrap_or_default()
    }
}

/// Answers with the host's name servers whenever they are others than it answered last, or than
/// `known`. A file that is just being replaced says nothing.
pub(super) fn changes(known: Vec<SocketAddr>) -> Nameservers {
    changes_of(Path::new(PATH), known)
}

fn changes_of(path: &Path, mut known: Vec<SocketAddr>) -> Nameservers {
    let path = path.to_owned();
    Box::new(move || {
        let now = read(&path).ok()?.nameservers;
        (now != known).then(|| {
            known.clone_from(&now);
            now
        })
    })
}

fn read(path: &Path) -> io::Result<Resolver> {
    let mut text = Vec::new();
    File::open(path)?
        .take(LONGEST_FILE)
        .read_to_end(&mut text)?;
    Ok(Resolver::parse(&String::from_utf8_lossy(&text)))
}

/// A domain without its trailing dot. The root, which is one dot, adds nothing to a name.
fn domain(word: &str) -> Option<String> {
    let name = word.trim_end_matches('.');
    let sound = (1..=LONGEST_NAME).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    sound.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> Vec<String> {
        let parsed = Resolver::parse(text).nameservers;
        parsed.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn name_servers_of_both_kinds_are_asked_in_order_at_port_53() {
        let text = "# NetworkManager\nnameserver 192.0.2.1\n\tnameserver\t2001:db8::1 # home\n";
        assert_eq!(servers(text), ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }

    #[test]
    fn systemd_resolved_s_stub_is_a_name_server_on_loopback() {
        let text = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
        assert_eq!(servers(text), ["127.0.0.53:53"]);
        assert!(Resolver::parse(text).search.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        let text = "nameserver fe80::1%eth0\nnameserver\nnameserver nine.example\n\
                    #nameserver 9.9.9.9\n;nameserver 9.9.9.9\nfrobnicate\nnameserver 192.0.2.1";
        assert_eq!(servers(text), ["192.0.2.1:53"]);
        assert!(servers("").is_empty());
    }

    #[test]
    fn the_last_line_about_domains_counts() {
        let search = |text| Resolver::parse(text).search;
        let text = "search a.example b.example.\ndomain c.example\n";
        assert_eq!(search(text), ["c.example"]);
        let text = "domain c.example\nsearch a.example b.example.";
        assert_eq!(search(text), ["a.example", "b.example"]);
        assert_eq!(
            search("search b\u{e4}d \u{7}x good.example"),
            ["good.example"]
        );
    }

    #[test]
    fn there_is_no_end_of_name_servers_and_domains() {
        let text = "nameserver 192.0.2.1\n".repeat(1000) + "search " + &"x ".repeat(1000);
        let parsed = Resolver::parse(&text);
        assert_eq!(
            (parsed.nameservers.len(), parsed.search.len()),
            (MOST, MOST)
        );
    }

    #[test]
    fn a_missing_or_empty_file_is_a_warning_and_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let missing = Found(read(&path));
        assert!(missing.warning().unwrap().contains("cannot be read"));
        assert_eq!(missing.unwrap_or_default(), Resolver::default());
        for text in [
            "",
            "# nameserver 192.0.2.1\n; none\n",
            "search example.org\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let warning = Found(read(&path)).warning().unwrap();
            assert!(warning.contains("no name server"), "{warning}");
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        let one: SocketAddr = "192.0.2.1:53".parse().unwrap();
        let mut changes = changes_of(&path, vec![one]);
        assert_eq!(changes(), None, "there is no file");
        write("nameserver 192.0.2.1\n");
        assert_eq!(changes(), None);
        write("search elsewhere.example\nnameserver 127.0.0.53\n");
        assert_eq!(changes().unwrap()[0].to_string(), "127.0.0.53:53");
        assert_eq!(changes(), None);
        write("");
        assert_eq!(changes(), Some(Vec::new()));
    }
}
