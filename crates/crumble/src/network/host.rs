//! What the processes of the host's side are told.

use wire::net::{Egress, Rate, Rule, Verdict};

/// What the guest may reach.
pub(super) fn egress(user: &spec::User) -> Egress {
    let rule = |rule: &spec::Rule| Rule {
        network: rule.network,
        prefix: rule.prefix,
        ports: rule.ports,
        verdict: verdict(rule.allow),
    };
    Egress {
        rules: user.rules.iter().map(rule).collect(),
        otherwise: verdict(user.otherwise),
    }
}

const fn verdict(allow: bool) -> Verdict {
    if allow { Verdict::Allow } else { Verdict::Deny }
}

/// What may pass on a link whose packets have `mtu` bytes. At least one packet must fit the bucket,
/// or none would ever pass.
pub(super) fn rate(rate: spec::Rate, mtu: u16) -> Rate {
    let bytes = rate.bits.map(|bits| bits.div_ceil(8));
    let tenth = bytes.unwrap_or_default().div_ceil(10);
    Rate {
        bytes,
        burst: rate.burst.unwrap_or(tenth).max(mtu.into()),
        packets: rate.packets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_keep_their_order_and_the_rest_its_verdict() {
        let Ok(spec::Network::User(user)) = "user,allow=192.0.2.0/24:443".parse() else {
            panic!("no user network");
        };
        let egress = egress(&user);
        assert_eq!(egress.otherwise, Verdict::Deny);
        let first = egress.rules[0];
        assert_eq!((first.prefix, first.ports), (24, (443, 443)));
        assert_eq!(first.verdict, Verdict::Allow);
        assert_eq!(egress.rules[1].verdict, Verdict::Deny);
    }

    #[test]
    fn a_rate_counts_bytes_and_its_bucket_holds_a_packet() {
        let megabits = |bits, burst| {
            let packets = None;
            rate(
                spec::Rate {
                    bits,
                    burst,
                    packets,
                },
                1500,
            )
        };
        let fast = megabits(Some(100_000_000), None);
        assert_eq!((fast.bytes, fast.burst), (Some(12_500_000), 1_250_000));
        assert_eq!(megabits(Some(8_000), None).burst, 1500);
        assert_eq!(megabits(Some(8_000_000), Some(9_000)).burst, 9_000);
        assert_eq!(megabits(None, None).bytes, None);
    }
}
