//! What the guest's agent sets up.

use std::net::IpAddr;

use wire::{
    agent::Network,
    net::{Addresses, Subnet},
};

/// What the guest's resolver finds without asking, in the network of user mode.
const HOST: &str = "host.internal";
const GATEWAY: &str = "gateway.internal";

/// A guest in the network of user mode. Its name server is the gateway, which asks the host's.
pub(super) fn of_user(mac: [u8; 6], mtu: u16, addresses: &Addresses) -> Network {
    let v4 = addresses.v4.map(of_any);
    let v6 = addresses.v6.map(of_any);
    let subnets = || v4.into_iter().chain(v6);
    let gateways: Vec<_> = subnets().map(|subnet| subnet.gateway).collect();
    Network {
        mac,
        mtu,
        addresses: subnets()
            .map(|subnet| (subnet.guest, subnet.prefix))
            .collect(),
        nameservers: gateways.clone(),
        gateways,
        search: addresses.search.clone(),
        hosts: subnets()
            .flat_map(|subnet| [(subnet.host, HOST), (subnet.gateway, GATEWAY)])
            .map(|(address, name)| (address, name.to_owned()))
            .collect(),
    }
}

/// A guest on a TAP device.
pub(super) fn of_tap(mac: [u8; 6], mtu: u16, tap: &spec::Tap) -> Network {
    Network {
        mac,
        mtu,
        addresses: tap.addresses.clone(),
        gateways: tap.gateways.clone(),
        nameservers: tap.nameservers.clone(),
        search: Vec::new(),
        hosts: Vec::new(),
    }
}

fn of_any<A: Into<IpAddr>>(subnet: Subnet<A>) -> Subnet<IpAddr> {
    Subnet {
        guest: subnet.guest.into(),
        gateway: subnet.gateway.into(),
        host: subnet.host.into(),
        prefix: subnet.prefix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_guest_of_user_mode_has_both_kinds_of_addresses_and_asks_the_gateway() {
        let addresses = Addresses {
            search: vec!["example.org".to_owned()],
            ..Addresses::default()
        };
        let network = of_user([2; 6], 65520, &addresses);
        assert_eq!(network.addresses[0], (address("10.0.2.15"), 24));
        assert_eq!(network.addresses[1], (address("fd63:7275:6d62::15"), 64));
        assert_eq!(network.nameservers, network.gateways);
        assert_eq!(network.gateways[0], address("10.0.2.2"));
        assert_eq!(network.search, ["example.org"]);
        let host = (address("10.0.2.3"), HOST.to_owned());
        let gateway = (address("fd63:7275:6d62::2"), GATEWAY.to_owned());
        assert!(network.hosts.contains(&host) && network.hosts.contains(&gateway));
    }

    #[test]
    fn a_guest_on_a_tap_device_has_what_was_said_and_no_more() {
        let spec = "tap=t,address=192.0.2.9/24,gateway=192.0.2.1,dns=192.0.2.53";
        let Ok(spec::Network::Tap(tap)) = spec.parse() else {
            panic!("{spec}");
        };
        let network = of_tap([2; 6], 1500, &tap);
        assert_eq!(network.addresses, [(address("192.0.2.9"), 24)]);
        assert_eq!(network.gateways, [address("192.0.2.1")]);
        assert_eq!(network.nameservers, [address("192.0.2.53")]);
        assert!(network.search.is_empty() && network.hosts.is_empty());
    }
}
