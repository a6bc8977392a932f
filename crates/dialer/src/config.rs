//! What the dialer is started with, checked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use wire::net::{DialerConfig, Egress, Publish, Rule, Verdict};

use crate::egress::Judge;

/// The most ports of an egress policy that Landlock is told one by one.
const MAX_PORTS: usize = 64;

/// The most name servers that are asked; glibc asks three.
const MAX_NAMESERVERS: usize = 8;

/// The port of DNS (RFC 1035, section 4.2).
const DNS: u16 = 53;

/// A start message that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A prefix is longer than an address, or there are bits behind it.
    #[error("`{0}/{1}` is no network: its prefix is too long or bits behind it are set")]
    Network(IpAddr, u8),
    /// The first port is behind the last.
    #[error("ports {0} to {1} are no range")]
    Ports(u16, u16),
    /// The guest has no port 0.
    #[error("port 0 of the guest cannot be published; choose one from 1 to 65535")]
    PublishedPort,
    /// What is handed over for a published port is another kind of socket.
    #[error("the socket `{0}` is not of the kind that its port needs")]
    PublishedSocket(String),
}

/// [`DialerConfig`] that holds what it promises.
#[derive(Debug, Clone)]
pub struct Config {
    egress: Egress,
    nameservers: Vec<SocketAddr>,
    publish: Vec<Publish>,
}

impl TryFrom<DialerConfig> for Config {
    type Error = Error;

    fn try_from(config: DialerConfig) -> Result<Self, Error> {
        config.egress.rules.iter().try_for_each(check)?;
        if config.publish.iter().any(|publish| publish.port == 0) {
            return Err(Error::PublishedPort);
        }
        Ok(Self {
            egress: config.egress,
            nameservers: usable(config.nameservers),
            publish: config.publish,
        })
    }
}

impl Config {
    /// Judges by the egress policy.
    #[must_use]
    pub fn judge(&self) -> Judge {
        Judge::new(self.egress.clone())
    }

    /// Name servers, in the order in which they are asked.
    #[must_use]
    pub fn nameservers(&self) -> &[SocketAddr] {
        &self.nameservers
    }

    /// Published ports, in the order of their resources.
    #[must_use]
    pub fn publish(&self) -> &[Publish] {
        &self.publish
    }

    /// The TCP ports that the policy can ever allow, with those of name servers; none if they are
    /// all or too many to list.
    #[must_use]
    pub fn ports(&self) -> Option<Vec<u16>> {
        if self.egress.otherwise == Verdict::Allow {
            return None;
        }
        let servers = self.nameservers.iter().map(SocketAddr::port);
        let mut ports: BTreeSet<u16> = servers.chain([DNS]).collect();
        for rule in &self.egress.rules {
            let (first, last) = rule.ports;
            if rule.verdict == Verdict::Deny {
                continue;
            }
            if usize::from(last.saturating_sub(first)) >= MAX_PORTS {
                return None;
            }
            ports.extend(first..=last);
        }
        (ports.len() <= MAX_PORTS).then(|| ports.into_iter().collect())
    }
}

/// Name servers without those that no question can be sent to.
pub(crate) fn usable(mut nameservers: Vec<SocketAddr>) -> Vec<SocketAddr> {
    nameservers.retain(|server| server.port() != 0 && !server.ip().is_multicast());
    nameservers.truncate(MAX_NAMESERVERS);
    nameservers
}

fn check(rule: &Rule) -> Result<(), Error> {
    let (bits, address) = match rule.network {
        IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (128, v6.to_bits()),
    };
    let behind = u32::checked_sub(bits, rule.prefix.into());
    let is_network = behind.is_some_and(|behind| address.trailing_zeros() >= behind);
    if !is_network {
        return Err(Error::Network(rule.network, rule.prefix));
    }
    let (first, last) = rule.ports;
    if first > last {
        return Err(Error::Ports(first, last));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wire::net::Protocol;

    use super::*;

    fn rule(network: &str, prefix: u8, ports: (u16, u16), verdict: Verdict) -> Rule {
        Rule {
            network: network.parse().unwrap(),
            prefix,
            ports,
            verdict,
        }
    }

    fn config(rules: Vec<Rule>, otherwise: Verdict) -> DialerConfig {
        DialerConfig {
            egress: Egress { rules, otherwise },
            nameservers: vec!["192.0.2.53:5353".parse().unwrap()],
            publish: vec![],
        }
    }

    #[test]
    fn networks_with_bits_behind_the_prefix_and_ports_in_disorder_are_refused() {
        for (network, prefix, ports) in [
            ("192.0.2.1", 24, (0, 1)),
            ("192.0.2.0", 33, (0, 1)),
            ("0.0.0.1", 0, (0, 1)),
            ("2001:db8::1", 64, (0, 1)),
            ("::", 129, (0, 1)),
            ("192.0.2.0", 24, (2, 1)),
        ] {
            let rules = vec![rule(network, prefix, ports, Verdict::Allow)];
            let config = Config::try_from(config(rules, Verdict::Deny));
            assert!(config.is_err(), "{network}/{prefix} {ports:?}");
        }
        for (network, prefix) in [("0.0.0.0", 0), ("::", 0), ("192.0.2.1", 32), ("::1", 128)] {
            let rules = vec![rule(network, prefix, (0, 0), Verdict::Allow)];
            assert!(Config::try_from(config(rules, Verdict::Deny)).is_ok());
        }
    }

    #[test]
    fn port_0_cannot_be_published() {
        let mut config = config(vec![], Verdict::Allow);
        config.publish.push(Publish {
            protocol: Protocol::Tcp,
            port: 0,
        });
        assert!(matches!(
            Config::try_from(config),
            Err(Error::PublishedPort)
        ));
    }

    #[test]
    fn the_ports_of_a_policy_that_denies_the_rest_are_listed_if_they_are_few() {
        let ports = |rules, otherwise| Config::try_from(config(rules, otherwise)).unwrap().ports();
        let allow = |ports| rule("0.0.0.0", 0, ports, Verdict::Allow);
        let deny = rule("10.0.0.0", 8, (0, u16::MAX), Verdict::Deny);
        let listed = Some(vec![53, 443, 444, 5353]);
        assert_eq!(ports(vec![allow((443, 444)), deny], Verdict::Deny), listed);
        assert_eq!(ports(vec![allow((443, 444))], Verdict::Allow), None);
        assert_eq!(ports(vec![allow((0, u16::MAX))], Verdict::Deny), None);
        assert_eq!(ports(vec![allow((1, 64))], Verdict::Deny), None);
        assert_eq!(ports(vec![deny], Verdict::Deny), Some(vec![53, 5353]));
    }

    #[test]
    fn name_servers_that_cannot_be_asked_are_left_out() {
        let servers = [
            "192.0.2.1:53",
            "192.0.2.1:0",
            "224.0.0.1:53",
            "[ff02::1]:53",
        ];
        let servers = servers.map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(usable(servers.clone()), servers[..1]);
        assert_eq!(usable(vec![servers[0]; 99]).len(), MAX_NAMESERVERS);
    }
}
