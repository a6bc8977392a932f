//! Who is who: the guest's view of addresses, and the host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::net::{Addresses, Subnet};

use crate::packet::GATEWAY;

/// Where something of the guest's goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// To us.
    Gateway,
    /// To the host, which knows itself by this address.
    Host(IpAddr),
    /// Somewhere else.
    Remote(IpAddr),
    /// To nobody: an address of our subnet that nobody has.
    Nobody,
    /// To several, which nothing here is for.
    Several,
}

/// The gateway's link-local address: EUI-64 of [`GATEWAY`] (RFC 4291, appendix A).
pub(crate) const LINK_LOCAL: Ipv6Addr = {
    let [a, b, c, d, e, f] = GATEWAY;
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        u16::from_be_bytes([a ^ 2, b]),
        u16::from_be_bytes([c, 0xff]),
        u16::from_be_bytes([0xfe, d]),
        u16::from_be_bytes([e, f]),
    )
};

const LINK_LOCAL_PREFIX: Subnet<Ipv6Addr> = Subnet {
    guest: LINK_LOCAL,
    gateway: LINK_LOCAL,
    host: LINK_LOCAL,
    prefix: 64,
};

/// Where a packet to `address` goes.
pub(crate) fn place(addresses: &Addresses, address: IpAddr) -> Place {
    match address {
        IpAddr::V4(address) => place_v4(addresses, address),
        IpAddr::V6(address) => place_v6(addresses, address),
    }
}

fn place_v4(addresses: &Addresses, address: Ipv4Addr) -> Place {
    let Some(subnet) = addresses.v4 else {
        return Place::Nobody;
    };
    if address == subnet.gateway {
        Place::Gateway
    } else if address == subnet.host {
        Place::Host(Ipv4Addr::LOCALHOST.into())
    } else if address.is_multicast() || address.is_broadcast() || address.is_unspecified() {
        Place::Several
    } else if inside_v4(subnet, address) || address.is_loopback() {
        Place::Nobody
    } else {
        Place::Remote(address.into())
    }
}

fn place_v6(addresses: &Addresses, address: Ipv6Addr) -> Place {
    if address == LINK_LOCAL {
        return Place::Gateway;
    }
    let Some(subnet) = addresses.v6 else {
        return Place::Nobody;
    };
    if address == subnet.gateway {
        Place::Gateway
    } else if address == subnet.host {
        Place::Host(Ipv6Addr::LOCALHOST.into())
    } else if address.is_multicast() || address.is_unspecified() {
        Place::Several
    } else if inside_v6(subnet, address)
        || inside_v6(LINK_LOCAL_PREFIX, address)
        || address.is_loopback()
    {
        Place::Nobody
    } else {
        Place::Remote(address.into())
    }
}

/// Whether the guest may send from `address`: one of its subnet that is not ours.
pub(crate) fn is_guest(addresses: &Addresses, address: IpAddr) -> bool {
    let inside = match address {
        IpAddr::V4(address) => addresses
            .v4
            .is_some_and(|subnet| inside_v4(subnet, address)),
        IpAddr::V6(address) => {
            let ours = addresses
                .v6
                .is_some_and(|subnet| inside_v6(subnet, address));
            ours || inside_v6(LINK_LOCAL_PREFIX, address)
        }
    };
    inside && place(addresses, address) == Place::Nobody
}

/// How the guest sees an address of the host's side; `None` if it has none of that kind.
pub(crate) fn seen(addresses: &Addresses, address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let subnet = addresses.v4?;
            let local = address.is_loopback() || address.is_unspecified();
            Some(if local { subnet.host } else { address }.into())
        }
        IpAddr::V6(address) => {
            let subnet = addresses.v6?;
            let local = address.is_loopback() || address.is_unspecified();
            Some(if local { subnet.host } else { address }.into())
        }
    }
}

/// The guest's own address of the kind of `other`.
pub(crate) fn guest(addresses: &Addresses, other: IpAddr) -> Option<IpAddr> {
    match other {
        IpAddr::V4(_) => addresses.v4.map(|subnet| subnet.guest.into()),
        IpAddr::V6(_) => addresses.v6.map(|subnet| subnet.guest.into()),
    }
}

/// Our address of the kind of `other`.
pub(crate) fn gateway(addresses: &Addresses, other: IpAddr) -> Option<IpAddr> {
    match other {
        IpAddr::V4(_) => addresses.v4.map(|subnet| subnet.gateway.into()),
        IpAddr::V6(_) => addresses.v6.map(|subnet| subnet.gateway.into()),
    }
}

fn inside_v4(subnet: Subnet<Ipv4Addr>, address: Ipv4Addr) -> bool {
    let difference = subnet.guest.to_bits() ^ address.to_bits();
    difference.leading_zeros() >= subnet.prefix.into()
}

fn inside_v6(subnet: Subnet<Ipv6Addr>, address: Ipv6Addr) -> bool {
    let difference = subnet.guest.to_bits() ^ address.to_bits();
    difference.leading_zeros() >= subnet.prefix.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(address: &str) -> Place {
        place(&Addresses::default(), address.parse().unwrap())
    }

    #[test]
    fn every_address_has_its_place() {
        assert_eq!(to("10.0.2.2"), Place::Gateway);
        assert_eq!(to("fd63:7275:6d62::2"), Place::Gateway);
        assert_eq!(to("fe80::63:72ff:fe75:6d62"), Place::Gateway);
        assert_eq!(to("10.0.2.3"), Place::Host("127.0.0.1".parse().unwrap()));
        assert_eq!(to("fd63:7275:6d62::3"), Place::Host("::1".parse().unwrap()));
        for remote in ["192.0.2.1", "2001:db8::1", "10.0.3.2"] {
            assert_eq!(to(remote), Place::Remote(remote.parse().unwrap()));
        }
        for nobody in [
            "10.0.2.9",
            "fd63:7275:6d62::9",
            "fe80::1",
            "127.0.0.1",
            "::1",
        ] {
            assert_eq!(to(nobody), Place::Nobody, "{nobody}");
        }
        for several in ["224.0.0.1", "255.255.255.255", "ff02::1", "0.0.0.0", "::"] {
            assert_eq!(to(several), Place::Several, "{several}");
        }
    }

    #[test]
    fn the_guest_speaks_for_itself_only() {
        let from = |address: &str| is_guest(&Addresses::default(), address.parse().unwrap());
        for own in ["10.0.2.15", "10.0.2.77", "fd63:7275:6d62::15", "fe80::9"] {
            assert!(from(own), "{own}");
        }
        for other in [
            "10.0.2.2",
            "10.0.2.3",
            "192.0.2.1",
            "2001:db8::1",
            "127.0.0.1",
        ] {
            assert!(!from(other), "{other}");
        }
    }

    #[test]
    fn loopback_is_the_hosts_address_to_the_guest() {
        let sees = |address: &str| seen(&Addresses::default(), address.parse().unwrap());
        assert_eq!(sees("127.0.0.1"), Some("10.0.2.3".parse().unwrap()));
        assert_eq!(sees("::ffff:127.0.0.5"), Some("10.0.2.3".parse().unwrap()));
        assert_eq!(sees("::1"), Some("fd63:7275:6d62::3".parse().unwrap()));
        assert_eq!(sees("192.0.2.1"), Some("192.0.2.1".parse().unwrap()));
    }
}
