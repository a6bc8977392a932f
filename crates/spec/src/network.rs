//! The guest's network, and what of the host's it may reach.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::{Error, Interface};

/// How a guest is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Not at all.
    None,
    /// Through sockets of the host, as an ordinary program is.
    User(User),
    /// To a TAP device of the host.
    Tap(Tap),
}

impl Default for Network {
    fn default() -> Self {
        Self::User(User::default())
    }
}

/// User-mode networking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The first rule that applies decides.
    pub rules: Vec<Rule>,
    /// What happens to the rest: true if it may be reached.
    pub otherwise: bool,
    /// The link.
    pub link: Link,
}

impl Default for User {
    /// Everything may be reached but the host itself and what is for the host only.
    fn default() -> Self {
        Self {
            rules: private_to_the_host(),
            otherwise: true,
            link: Link::default(),
        }
    }
}

/// A TAP device. What the guest is to set up is said here, since nobody else on that network may:
/// without any address its interface is only brought up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Its name: 1 to 15 bytes.
    pub name: String,
    /// The guest's addresses, each with the bits of its subnet's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default routes, at most one for each kind of address that the guest has.
    pub gateways: Vec<IpAddr>,
    /// The guest's name servers, in order.
    pub nameservers: Vec<IpAddr>,
    /// The link.
    pub link: Link,
}

/// What both kinds have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// The largest IP packet in bytes, [`Link::MTU_MIN`] to [`Link::MTU_MAX`]; the largest for
    /// user-mode networking and 1500 for a TAP device, if nothing is said.
    pub mtu: Option<u16>,
    /// What the guest may send, and as much again that it may receive.
    pub rate: Option<Rate>,
}

impl Link {
    /// What IPv6 takes for granted (RFC 8200, section 5).
    pub const MTU_MIN: u16 = 1280;
    /// What fits a 64 KiB buffer with an Ethernet header and virtio's.
    pub const MTU_MAX: u16 = 65520;
}

/// What may pass in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Bits a second.
    pub bits: Option<u64>,
    /// Bytes that may pass at once after a pause; a tenth of a second's if nothing is said.
    pub burst: Option<u64>,
    /// Packets a second.
    pub packets: Option<u64>,
}

/// A part of the Internet, and whether it may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The network's address; bits behind the prefix are zero.
    pub network: IpAddr,
    /// 0 to 32, or to 128 for IPv6.
    pub prefix: u8,
    /// First and last port.
    pub ports: (u16, u16),
    /// It may be reached.
    pub allow: bool,
}

const ALL_PORTS: (u16, u16) = (0, u16::MAX);

/// What a guest may not reach unless it is said: the host's loopback addresses, and the link-local
/// ones, where clouds tell a host its secrets.
fn private_to_the_host() -> Vec<Rule> {
    let deny = |network, prefix| Rule {
        network,
        prefix,
        ports: ALL_PORTS,
        allow: false,
    };
    vec![
        deny(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        deny(Ipv6Addr::LOCALHOST.into(), 128),
        deny(Ipv4Addr::new(169, 254, 0, 0).into(), 16),
        deny(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10),
        // Amazon's metadata over IPv6.
        deny(
            Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254).into(),
            128,
        ),
    ]
}

impl FromStr for Network {
    type Err = Error;

    /// `none`, `user` or `tap=NAME`, then `,KEY=VALUE` any number of times. `mtu`, `rate`, `burst`
    /// and `packets` are of both kinds. Of `user` are, in the order in which they are tried,
    /// `allow=NETWORK[:PORTS]` and `deny=NETWORK[:PORTS]`, and `host=PORTS`, which allows ports of
    /// the host's loopback addresses. With an `allow` everything else is denied. Of `tap` are
    /// `address=ADDRESS/PREFIX`, `gateway=ADDRESS` and `dns=ADDRESS`, several of each.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Network {
            given: text.to_owned(),
            reason,
        };
        let mut parts = text.split(',');
        let options = match parts.next().unwrap_or_default() {
            "none" => {
                return match parts.next() {
                    None => Ok(Self::None),
                    Some(_) => Err(wrong("there is nothing to set where there is none".into())),
                };
            }
            "user" => Options::read(parts, true).map_err(wrong)?.user(),
            other => {
                let name = other
                    .strip_prefix("tap=")
                    .ok_or_else(|| wrong(format!("there is no network \"{other}\"")))?;
                let name: Interface = name
                    .parse()
                    .map_err(|error: Error| wrong(error.to_string()))?;
                let options = Options::read(parts, false).map_err(wrong)?;
                options.tap(name.as_str().to_owned()).map_err(wrong)?
            }
        };
        Ok(options)
    }
}

/// What follows the kind.
#[derive(Default)]
struct Options {
    rules: Vec<Rule>,
    exclusive: bool,
    addresses: Vec<(IpAddr, u8)>,
    gateways: Vec<IpAddr>,
    nameservers: Vec<IpAddr>,
    link: Link,
}

impl Options {
    fn read<'a>(parts: impl Iterator<Item = &'a str>, user: bool) -> Result<Self, String> {
        let mut options = Self::default();
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("\"{part}\" is not KEY=VALUE"))?;
            options.set(key, value, user)?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str, user: bool) -> Result<(), String> {
        let rate = || self.link.rate.unwrap_or_default();
        match key {
            "allow" | "deny" if user => {
                let allow = key == "allow";
                self.exclusive |= allow;
                self.rules.extend(rules(value, allow)?);
            }
            "host" if user => {
                let ports = ports(value)?;
                for network in [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ] {
                    self.rules.push(Rule {
                        network,
                        prefix: bits(network),
                        ports,
                        allow: true,
                    });
                }
            }
            "address" if !user => self.addresses.push(interface_address(value)?),
            "gateway" if !user => self.gateways.push(address(value)?),
            "dns" if !user => self.nameservers.push(address(value)?),
            "mtu" => self.link.mtu = Some(mtu(value)?),
            "rate" => {
                self.link.rate = Some(Rate {
                    bits: Some(scaled(value)?),
                    ..rate()
                });
            }
            "burst" => {
                self.link.rate = Some(Rate {
                    burst: Some(scaled(value)?),
                    ..rate()
                });
            }
            "packets" => {
                self.link.rate = Some(Rate {
                    packets: Some(scaled(value)?),
                    ..rate()
                });
            }
            "allow" | "deny" | "host" => {
                return Err(format!(
                    "\"{key}\" is for the network \"user\"; what passes a TAP device is for this \
                     host's firewall to say"
                ));
            }
            "address" | "gateway" | "dns" => {
                return Err(format!(
                    "\"{key}\" is for a TAP device; in the network \"user\" these are fixed"
                ));
            }
            _ => return Err(format!("there is no setting \"{key}\"")),
        }
        Ok(())
    }

    fn user(self) -> Network {
        let mut rules = self.rules;
        rules.extend(private_to_the_host());
        Network::User(User {
            rules,
            otherwise: !self.exclusive,
            link: self.link,
        })
    }

    fn tap(self, name: String) -> Result<Network, String> {
        for (index, gateway) in self.gateways.iter().enumerate() {
            let kind = bits(*gateway);
            let earlier = self.gateways.iter().take(index);
            if earlier.copied().map(bits).any(|other| other == kind) {
                return Err(format!("{gateway} is a second gateway of its kind"));
            }
            if !self.addresses.iter().any(|(own, _)| bits(*own) == kind) {
                return Err(format!(
                    "the gateway {gateway} is of no use without an address of its kind"
                ));
            }
        }
        Ok(Network::Tap(Tap {
            name,
            addresses: self.addresses,
            gateways: self.gateways,
            nameservers: self.nameservers,
            link: self.link,
        }))
    }
}

/// `NETWORK[:PORTS]`: an address or network, one of IPv6 in brackets if ports follow, or `*`.
fn rules(text: &str, allow: bool) -> Result<Vec<Rule>, String> {
    let (network, range) = split_ports(text);
    let ports = range.map_or(Ok(ALL_PORTS), ports)?;
    let networks = match network {
        "*" => vec![
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        ],
        network => vec![cidr(network)?],
    };
    let rule = |(network, prefix)| Rule {
        network,
        prefix,
        ports,
        allow,
    };
    Ok(networks.into_iter().map(rule).collect())
}

fn split_ports(text: &str) -> (&str, Option<&str>) {
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((network, "")) => (network, None),
            Some((network, rest)) => (network, Some(rest.strip_prefix(':').unwrap_or(rest))),
            None => (text, None),
        };
    }
    match text.split_once(':') {
        // Two colons are an address of IPv6.
        Some((network, ports)) if !ports.contains(':') => (network, Some(ports)),
        _ => (text, None),
    }
}

/// `ADDRESS/PREFIX`, or an address alone.
fn cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("\"{text}\" is not an address or network, as in 192.0.2.0/24"))?;
    let most = bits(address);
    let prefix = prefix.map_or(Ok(most), |digits| self::prefix(text, digits, most))?;
    if masked(address, prefix) != address {
        let network = masked(address, prefix);
        return Err(format!(
            "\"{text}\" has bits behind its prefix; {network}/{prefix} is the network"
        ));
    }
    Ok((address, prefix))
}

/// The prefix of `text`, 0 to `most`.
fn prefix(text: &str, digits: &str, most: u8) -> Result<u8, String> {
    let prefix = digits.parse().ok().filter(|prefix| *prefix <= most);
    prefix.ok_or_else(|| format!("the prefix of \"{text}\" is not a number from 0 to {most}"))
}

fn address(text: &str) -> Result<IpAddr, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("\"{text}\" is not an address, as in 192.0.2.1"))
}

/// `ADDRESS/PREFIX`: an interface's own address and how much of it is its subnet's.
pub(crate) fn interface_address(text: &str) -> Result<(IpAddr, u8), String> {
    let parts = text.split_once('/');
    let (own, digits) = parts.ok_or_else(|| {
        format!("\"{text}\" does not say how long its subnet's prefix is, as in 192.0.2.2/24")
    })?;
    let own = address(own)?;
    Ok((own, prefix(text, digits, bits(own))?))
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with zeros behind the prefix.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(prefix.into()))
                .unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(prefix.into()))
                .unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// `PORT` or `FIRST-LAST`.
pub(crate) fn ports(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| text.parse::<u16>().ok();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!(
            "\"{text}\" is not a port or a range of ports, as in 80 or 8000-8010"
        )),
    }
}

fn mtu(text: &str) -> Result<u16, String> {
    let range = Link::MTU_MIN..=Link::MTU_MAX;
    let mtu = text.parse().ok().filter(|mtu| range.contains(mtu));
    mtu.ok_or_else(|| {
        format!(
            "\"{text}\" is not an MTU: give {} to {}",
            Link::MTU_MIN,
            Link::MTU_MAX
        )
    })
}

/// A number with k, M or G: thousands, as networks count.
fn scaled(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match text.get(digits.len()..) {
        Some("") => Some(1),
        Some("k" | "K") => Some(1_000),
        Some("M") => Some(1_000_000),
        Some("G") => Some(1_000_000_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    number
        .zip(scale)
        .and_then(|(number, scale)| number.checked_mul(scale))
        .ok_or_else(|| format!("\"{text}\" is not a number, as in 100M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> User {
        match text.parse().unwrap() {
            Network::User(user) => user,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn wrong(text: &str, why: &str) {
        let message = text.parse::<Network>().unwrap_err().to_string();
        assert!(message.contains(why), "{text}: {message}");
    }

    #[test]
    fn the_default_reaches_everything_but_what_is_the_hosts_own() {
        assert_eq!("user".parse::<Network>().unwrap(), Network::default());
        let user = user("user");
        assert!(user.otherwise && user.rules.iter().all(|rule| !rule.allow));
        let denied = |text: &str| {
            let address: IpAddr = text.parse().unwrap();
            let inside = |rule: &Rule| {
                bits(rule.network) == bits(address) && masked(address, rule.prefix) == rule.network
            };
            user.rules.iter().any(inside)
        };
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "169.254.169.254",
            "fe80::1",
        ] {
            assert!(denied(address), "{address}");
        }
        assert!(!denied("192.0.2.1") && !denied("2001:db8::1"));
    }

    #[test]
    fn an_allowed_network_is_the_only_one() {
        let user = user("user,allow=192.0.2.0/24:443,allow=[2001:db8::/32]:80-81");
        assert!(!user.otherwise);
        assert_eq!(user.rules[0].ports, (443, 443));
        assert_eq!(user.rules[1].network.to_string(), "2001:db8::");
        assert_eq!((user.rules[1].prefix, user.rules[1].ports), (32, (80, 81)));
    }

    #[test]
    fn a_denied_network_leaves_the_rest() {
        let user = user("user,deny=10.0.0.0/8,deny=*:25");
        assert!(user.otherwise);
        assert_eq!(user.rules[0].ports, ALL_PORTS);
        assert_eq!((user.rules[1].prefix, user.rules[2].prefix), (0, 0));
        assert!(user.rules[2].network.is_ipv6() && user.rules[2].ports == (25, 25));
    }

    #[test]
    fn a_port_of_the_host_is_opened_without_closing_anything() {
        let user = user("user,host=8080");
        assert!(user.otherwise && user.rules[0].allow && user.rules[1].allow);
        assert_eq!(user.rules[0].network, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn links_have_an_mtu_and_rates() {
        let link = user("user,mtu=1500,rate=100M,packets=50k,burst=64k").link;
        let rate = link.rate.unwrap();
        assert_eq!(link.mtu, Some(1500));
        assert_eq!((rate.bits, rate.packets), (Some(100_000_000), Some(50_000)));
        assert_eq!(rate.burst, Some(64_000));
    }

    #[test]
    fn a_tap_device_has_a_name() {
        let network = "tap=tap0,mtu=9000".parse().unwrap();
        let Network::Tap(tap) = network else {
            panic!("{network:?}");
        };
        assert_eq!((tap.name.as_str(), tap.link.mtu), ("tap0", Some(9000)));
        assert!(tap.addresses.is_empty() && tap.gateways.is_empty());
    }

    #[test]
    fn a_guest_on_a_tap_device_is_told_who_it_is() {
        let text = "tap=t,address=192.0.2.9/24,address=2001:db8::9/64,gateway=192.0.2.1,\
                    gateway=2001:db8::1,dns=192.0.2.1,dns=9.9.9.9";
        let network = text.parse().unwrap();
        let Network::Tap(tap) = network else {
            panic!("{network:?}");
        };
        assert_eq!(tap.addresses[1], ("2001:db8::9".parse().unwrap(), 64));
        assert_eq!((tap.gateways.len(), tap.nameservers.len()), (2, 2));
    }

    #[test]
    fn what_makes_no_sense_says_why() {
        wrong("bridge", "no network \"bridge\"");
        wrong("none,mtu=1500", "nothing to set");
        wrong("tap=", "not an interface");
        wrong("tap=a/b", "not an interface");
        wrong(
            "tap=t,allow=10.0.0.0/8",
            "\"allow\" is for the network \"user\"",
        );
        wrong("tap=t,host=80", "firewall");
        wrong("tap=t,address=192.0.2.9", "does not say how long");
        wrong("tap=t,address=192.0.2.9/33", "0 to 32");
        wrong("tap=t,gateway=192.0.2.0/24", "not an address");
        wrong("tap=t,gateway=192.0.2.1", "without an address of its kind");
        let two = "tap=t,address=192.0.2.9/24,gateway=192.0.2.1,gateway=192.0.2.2";
        wrong(two, "192.0.2.2 is a second gateway");
        wrong("user,dns=192.0.2.1", "\"dns\" is for a TAP device");
        wrong("user,speed=1G", "no setting \"speed\"");
        wrong("user,allow", "not KEY=VALUE");
        wrong("user,allow=10.0.0.1/8", "10.0.0.0/8 is the network");
        wrong("user,allow=10.0.0.0/33", "0 to 32");
        wrong("user,allow=ten/8", "not an address");
        wrong("user,deny=10.0.0.0/8:99999", "not a port");
        wrong("user,deny=10.0.0.0/8:9-8", "not a port");
        wrong("user,mtu=900", "1280 to 65520");
        wrong("user,rate=0", "not a number");
        wrong("user,rate=99999999999G", "not a number");
        wrong("user,rate=1x", "not a number");
    }
}
