//! Ports of the host that lead to the guest.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use crate::{Error, network::ports};

/// Ports of the host, as many of the guest, in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// The host's address; [`Publish::ADDRESS`] if nothing is said.
    pub address: IpAddr,
    /// The first port of the host; 0 for any that is free.
    pub host: u16,
    /// The first port of the guest.
    pub guest: u16,
    /// How many.
    pub count: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

impl Publish {
    /// Where published ports listen: for programs of the host only.
    pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Whether one port of the host is in both.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let all = |one: &Self| one.address.is_unspecified();
        let addresses = self.address == other.address
            || self.address.is_ipv4() == other.address.is_ipv4() && (all(self) || all(other));
        let (own, others) = (last(self.host, self.count), last(other.host, other.count));
        // Any port is another one each time.
        let ports = self.host != 0 && other.host != 0 && self.host <= others && other.host <= own;
        self.udp == other.udp && addresses && ports
    }
}

const fn last(first: u16, count: u16) -> u16 {
    first.saturating_add(count.saturating_sub(1))
}

impl fmt::Display for Publish {
    /// As it is parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:")?,
            IpAddr::V6(address) => write!(f, "[{address}]:")?,
        }
        let range = |first| match (first, self.count) {
            (0, _) | (_, 1) => first.to_string(),
            (first, count) => format!("{first}-{}", last(first, count)),
        };
        let protocol = if self.udp { "udp" } else { "tcp" };
        write!(f, "{}:{}/{protocol}", range(self.host), range(self.guest))
    }
}

impl FromStr for Publish {
    type Err = Error;

    /// `[[ADDRESS:]HOST:]GUEST[/tcp|/udp]`, where HOST and GUEST are ports or ranges of ports.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Publish {
            given: text.to_owned(),
            reason,
        };
        let (rest, udp) = match text.rsplit_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), false),
            Some((rest, "udp")) => (rest, true),
            Some((_, other)) => return Err(wrong(format!("there is no protocol \"{other}\""))),
        };
        let (rest, guest) = match rest.rsplit_once(':') {
            Some((rest, guest)) => (Some(rest), guest),
            None => (None, rest),
        };
        let (guest, last) = ports(guest).map_err(wrong)?;
        if guest == 0 {
            return Err(wrong("the guest's port is 0".into()));
        }
        let count = last.saturating_sub(guest).saturating_add(1);
        let (address, host) = host(rest, count).map_err(wrong)?;
        Ok(Self {
            address,
            host,
            guest,
            count,
            udp,
        })
    }
}

/// `[ADDRESS:]PORTS`.
fn host(text: Option<&str>, count: u16) -> Result<(IpAddr, u16), String> {
    let Some(text) = text else {
        return Ok((Publish::ADDRESS, 0));
    };
    let (address, range) = match text.rsplit_once(':') {
        None => (Publish::ADDRESS, text),
        Some((address, range)) => {
            let bare = address
                .strip_prefix('[')
                .and_then(|address| address.strip_suffix(']'));
            let parsed = bare.unwrap_or(address).parse::<IpAddr>().ok();
            let parsed = parsed.filter(|parsed| parsed.is_ipv6() == bare.is_some());
            let parsed = parsed.ok_or_else(|| {
                format!("\"{address}\" is not an address; one of IPv6 is in brackets")
            })?;
            (parsed, range)
        }
    };
    let (first, last) = ports(range)?;
    let length = last.saturating_sub(first).saturating_add(1);
    // Any ports: as many as the guest's.
    if (first, last) == (0, 0) || length == count {
        return Ok((address, first));
    }
    Err(format!(
        "{length} ports of the host lead to {count} of the guest"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parsed(text: &str) -> (String, u16, u16, u16, bool) {
        let publish: Publish = text.parse().unwrap();
        let Publish {
            address,
            host,
            guest,
            count,
            udp,
        } = publish;
        (address.to_string(), host, guest, count, udp)
    }

    #[test]
    fn a_port_leads_to_a_port() {
        let local = || "127.0.0.1".to_owned();
        assert_eq!(parsed("80"), (local(), 0, 80, 1, false));
        assert_eq!(parsed("8080:80"), (local(), 8080, 80, 1, false));
        assert_eq!(parsed("0:53/udp"), (local(), 0, 53, 1, true));
        let all = "0.0.0.0".to_owned();
        assert_eq!(parsed("0.0.0.0:8080:80/tcp"), (all, 8080, 80, 1, false));
        let six = "::".to_owned();
        assert_eq!(parsed("[::]:9000-9002:90-92"), (six, 9000, 90, 3, false));
        assert_eq!(parsed("0:90-92"), (local(), 0, 90, 3, false));
    }

    #[test]
    fn what_is_printed_is_parsed_again() {
        for text in [
            "127.0.0.1:8080:80/tcp",
            "[::1]:0:90-92/udp",
            "0.0.0.0:9000-9002:90-92/tcp",
        ] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_makes_no_sense_says_why() {
        for (bad, why) in [
            ("", "not a port"),
            ("80/sctp", "no protocol \"sctp\""),
            ("8080:0", "guest's port is 0"),
            ("x:80", "not a port"),
            ("99999:80", "not a port"),
            ("host:80:80", "not an address"),
            ("::1:80:80", "not an address"),
            ("[127.0.0.1]:80:80", "not an address"),
            ("1-3:1-2", "3 ports of the host lead to 2"),
        ] {
            let message = bad.parse::<Publish>().unwrap_err().to_string();
            assert!(message.contains(why), "{bad}: {message}");
        }
    }
}
