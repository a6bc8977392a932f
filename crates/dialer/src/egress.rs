//! What of the Internet the guest may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::net::{Egress, Rule, Verdict};

/// What becomes of something that goes to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It may go.
    Allowed,
    /// The policy forbids it.
    Denied,
    /// No connection can be there, whatever the policy says.
    Unreachable,
}

/// Judges addresses by an egress policy.
#[derive(Debug, Clone)]
pub struct Judge {
    policy: Egress,
}

impl Judge {
    /// By this policy, which [`crate::config`] has checked.
    #[must_use]
    pub fn new(policy: Egress) -> Self {
        Self { policy }
    }

    /// Judges an address and a port; none for echo requests, which only rules for all ports mean.
    #[must_use]
    pub fn judge(&self, address: IpAddr, port: Option<u16>) -> Judgement {
        let address = judged(address);
        if is_many(address) {
            return Judgement::Unreachable;
        }
        let applies = |rule: &&Rule| is_within(address, rule) && meant(rule.ports, port);
        let rule = self.policy.rules.iter().find(applies);
        match rule.map_or(self.policy.otherwise, |rule| rule.verdict) {
            Verdict::Allow => Judgement::Allowed,
            Verdict::Deny => Judgement::Denied,
        }
    }
}

/// The address that `address` is judged as: the IPv4 address that it contains, and for Linux's
/// names of the host itself its loopback address.
fn judged(address: IpAddr) -> IpAddr {
    let address = match address {
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(v6) => contained(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    match address {
        // RFC 1122, section 3.2.1.3: "this host on this network".
        IpAddr::V4(v4) if v4.octets().first() == Some(&0) => Ipv4Addr::LOCALHOST.into(),
        _ => address,
    }
}

/// The IPv4 address in a mapped or compatible address (RFC 4291, section 2.5.5), or in one of the
/// well-known prefix 64:ff9b::/96 (RFC 6052, section 2.1).
fn contained(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = address.segments();
    let is_container = matches!(
        [a, b, c, d, e, f],
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0]
    );
    // ::1 is no IPv4 address.
    (is_container && !address.is_loopback())
        .then(|| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

/// Whether the address stands for more than one host.
fn is_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

/// Whether `address` is in a rule's network.
fn is_within(address: IpAddr, rule: &Rule) -> bool {
    let (bits, difference) = match (address, rule.network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (32, u128::from(one.to_bits() ^ other.to_bits())),
        (IpAddr::V6(one), IpAddr::V6(other)) => (128, one.to_bits() ^ other.to_bits()),
        _ => return false,
    };
    let behind = 128_u32.min(bits).saturating_sub(rule.prefix.into());
    difference.checked_shr(behind).unwrap_or(0) == 0
}

/// Whether a rule for `ports` is about `port`.
fn meant((first, last): (u16, u16), port: Option<u16>) -> bool {
    match port {
        Some(port) => (first..=last).contains(&port),
        None => first <= 1 && last == u16::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Judgement::{Allowed, Denied, Unreachable};

    fn rule(text: &str, ports: (u16, u16), verdict: Verdict) -> Rule {
        let (network, prefix) = text.split_once('/').unwrap();
        Rule {
            network: network.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            ports,
            verdict,
        }
    }

    const ALL: (u16, u16) = (0, u16::MAX);

    /// Loopback and metadata are denied, port 8080 of the host allowed.
    fn judge() -> Judge {
        Judge::new(Egress {
            rules: vec![
                rule("127.0.0.1/32", (8080, 8080), Verdict::Allow),
                rule("127.0.0.0/8", ALL, Verdict::Deny),
                rule("::1/128", ALL, Verdict::Deny),
                rule("169.254.169.254/32", ALL, Verdict::Deny),
                rule("2001:db8::/32", (1, 1023), Verdict::Deny),
            ],
            otherwise: Verdict::Allow,
        })
    }

    fn judged(address: &str, port: u16) -> Judgement {
        judge().judge(address.parse().unwrap(), Some(port))
    }

    #[test]
    fn the_first_rule_that_applies_decides_and_else_the_rest_s_verdict() {
        assert_eq!(judged("127.0.0.1", 8080), Allowed);
        assert_eq!(judged("127.0.0.1", 8081), Denied);
        assert_eq!(judged("127.0.0.2", 8080), Denied);
        assert_eq!(judged("192.0.2.1", 1), Allowed);
        assert_eq!(judged("2001:db8::1", 1023), Denied);
        assert_eq!(judged("2001:db8::1", 1024), Allowed);
        assert_eq!(judged("2001:db9::1", 1023), Allowed);
    }

    #[test]
    fn an_ipv4_address_inside_of_an_ipv6_address_is_judged_as_itself() {
        for address in [
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert_eq!(judged(address, 80), Denied, "{address}");
        }
        assert_eq!(judged("::ffff:127.0.0.1", 8080), Allowed);
        assert_eq!(judged("64:ff9b::192.0.2.1", 80), Allowed);
    }

    #[test]
    fn names_of_the_host_itself_are_judged_as_loopback() {
        for address in ["0.0.0.0", "0.1.2.3", "::", "::1", "::ffff:0.0.0.0"] {
            assert_eq!(judged(address, 80), Denied, "{address}");
        }
        assert_eq!(judged("0.0.0.0", 8080), Allowed);
    }

    #[test]
    fn groups_and_broadcasts_are_unreachable_whatever_the_policy_says() {
        for address in [
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "::ffff:224.0.0.1",
        ] {
            assert_eq!(judged(address, 80), Unreachable, "{address}");
        }
    }

    #[test]
    fn echo_requests_are_meant_by_rules_for_all_ports_only() {
        let echo = |address: &str| judge().judge(address.parse().unwrap(), None);
        assert_eq!(echo("127.0.0.1"), Denied);
        assert_eq!(echo("2001:db8::1"), Allowed);
        assert!(meant((1, u16::MAX), None) && !meant((2, u16::MAX), None));
    }

    #[test]
    fn a_prefix_of_nothing_is_everything_of_its_family_alone() {
        let judge = Judge::new(Egress {
            rules: vec![rule("0.0.0.0/0", ALL, Verdict::Allow)],
            otherwise: Verdict::Deny,
        });
        assert_eq!(judge.judge([192, 0, 2, 1].into(), Some(1)), Allowed);
        assert_eq!(judge.judge(Ipv6Addr::LOCALHOST.into(), Some(1)), Denied);
    }
}
