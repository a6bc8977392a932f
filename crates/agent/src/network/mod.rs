//! The guest's network, as the host decided it: nobody is asked, nothing is waited for.

mod interface;
mod message;
mod netlink;

use std::{fs, net::IpAddr, time::Duration};

use nix::errno::Errno;
use wire::agent::Network;

use self::{interface::Interface, message::Message, netlink::Netlink};
use crate::error::{Result, cannot};

/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;

/// How long a driver has to find its device; one that is not there will not be later.
const APPEAR_TIME: Duration = Duration::from_secs(5);

/// What an interface with given addresses has no use for: advertised ones, and a second or two in
/// which it is made sure that no neighbour has them.
const UNASKED: [&str; 3] = ["accept_ra", "autoconf", "accept_dad"];

/// Brings the loopback interface up, with the kernel's own addresses, and the other one if there
/// is to be one.
pub(crate) fn set_up(network: Option<&Network>) -> Result<()> {
    let mut netlink = Netlink::open().map_err(cannot("open a routing socket"))?;
    netlink
        .ask(&Message::link_up(LOOPBACK, None))
        .map_err(cannot("bring the loopback interface up"))?;
    // Every group may ping; without, only root may.
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    network.map_or(Ok(()), |network| link(&mut netlink, network))
}

fn link(netlink: &mut Netlink, network: &Network) -> Result<()> {
    let Interface { name, index } = Interface::with(network.mac, APPEAR_TIME)?;
    if !network.addresses.is_empty() {
        for setting in UNASKED {
            // It fails where there is no IPv6, and then there is nothing to set.
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{setting}"), "0");
        }
    }
    let mtu = network.mtu;
    netlink
        .ask(&Message::link_up(index, Some(mtu)))
        .map_err(cannot(format!("bring {name} up with an MTU of {mtu}")))?;
    for (address, prefix) in &network.addresses {
        let outcome = netlink.ask(&Message::address(index, *address, *prefix));
        unless_lacking(*address, outcome).map_err(cannot(format!(
            "give {name} the address {address}/{prefix}"
        )))?;
    }
    for gateway in &network.gateways {
        let outcome = netlink.ask(&Message::default_route(index, *gateway));
        unless_lacking(*gateway, outcome)
            .map_err(cannot(format!("route by {gateway} through {name}")))?;
    }
    Ok(())
}

/// A kernel without IPv6, or with it turned off, does without.
fn unless_lacking(address: IpAddr, outcome: nix::Result<()>) -> nix::Result<()> {
    match outcome {
        Err(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::EACCES) if address.is_ipv6() => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread};

    use super::*;
    use crate::namespaces;

    const MAC: [u8; 6] = [2, 0, 0, 0xab, 0xcd, 0xef];

    /// What `ip` prints.
    fn ip(arguments: &str) -> String {
        let output = Command::new("ip")
            .args(arguments.split(' '))
            .output()
            .expect("iproute2 is needed: apt-get install iproute2");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A pair of interfaces, one of them the guest's.
    fn make_interfaces() {
        ip("link add other type veth peer name guest0 address 02:00:00:ab:cd:ef");
        ip("link set other up");
    }

    fn network() -> Network {
        Network {
            mac: MAC,
            mtu: 65520,
            addresses: vec![
                ([10, 0, 2, 15].into(), 24),
                ("fd00::f".parse().unwrap(), 64),
            ],
            gateways: vec![[10, 0, 2, 2].into(), "fe80::2".parse().unwrap()],
            nameservers: Vec::new(),
            search: Vec::new(),
            hosts: Vec::new(),
        }
    }

    #[track_caller]
    fn has(text: &str, parts: &[&str]) {
        for part in parts {
            assert!(text.contains(part), "\"{part}\" is missing in:\n{text}");
        }
    }

    #[test]
    fn addresses_routes_and_mtu_arrive_and_arrive_again() {
        let name = "network::tests::addresses_routes_and_mtu_arrive_and_arrive_again";
        namespaces::inside(name, || {
            make_interfaces();
            for _ in 0..2 {
                set_up(Some(&network())).unwrap();
            }
            has(&ip("-o link show lo"), &["LOOPBACK,UP"]);
            has(&ip("-o link show guest0"), &[",UP,", "mtu 65520 "]);
            let addresses = ip("-o addr show guest0");
            has(
                &addresses,
                &[
                    "inet 10.0.2.15/24 scope global",
                    "inet6 fd00::f/64 scope global",
                ],
            );
            assert!(!addresses.contains("tentative"), "{addresses}");
            let routes = ip("-4 route");
            has(
                &routes,
                &["default via 10.0.2.2 dev guest0", "10.0.2.0/24 dev guest0"],
            );
            assert_eq!(routes.matches("default").count(), 1);
            let routes = ip("-6 route");
            has(
                &routes,
                &["default via fe80::2 dev guest0", "fd00::/64 dev guest0"],
            );
            assert_eq!(routes.matches("default").count(), 1);
            has(
                &ip("route get 192.0.2.1"),
                &["via 10.0.2.2", "src 10.0.2.15"],
            );
            has(
                &ip("route get 2001:db8::1"),
                &["via fe80::2", "src fd00::f"],
            );
            let advertised = "/proc/sys/net/ipv6/conf/guest0/accept_ra";
            assert_eq!(fs::read_to_string(advertised).unwrap(), "0\n");
        });
    }

    #[test]
    fn a_gateway_outside_of_the_subnet_is_on_the_link() {
        let name = "network::tests::a_gateway_outside_of_the_subnet_is_on_the_link";
        namespaces::inside(name, || {
            make_interfaces();
            let mut network = network();
            network.addresses = vec![
                ([192, 0, 2, 7].into(), 32),
                ("2001:db8::7".parse().unwrap(), 128),
            ];
            network.gateways = vec![[203, 0, 113, 1].into(), "2001:db8:1::1".parse().unwrap()];
            set_up(Some(&network)).unwrap();
            has(&ip("-4 route"), &["default via 203.0.113.1 dev guest0"]);
            has(&ip("-6 route"), &["default via 2001:db8:1::1 dev guest0"]);
        });
    }

    #[test]
    fn without_ipv6_there_is_ipv4() {
        namespaces::inside("network::tests::without_ipv6_there_is_ipv4", || {
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            make_interfaces();
            set_up(Some(&network())).unwrap();
            assert!(!ip("-o addr show guest0").contains("inet6"));
            has(&ip("-4 route"), &["default via 10.0.2.2 dev guest0"]);
        });
    }

    #[test]
    fn an_interface_may_be_late() {
        namespaces::inside("network::tests::an_interface_may_be_late", || {
            let late = thread::spawn(|| {
                thread::sleep(Duration::from_millis(100));
                make_interfaces();
            });
            set_up(Some(&network())).unwrap();
            late.join().unwrap();
            has(&ip("-o addr show guest0"), &["10.0.2.15/24"]);
        });
    }

    #[test]
    fn an_interface_that_does_not_come_is_named() {
        let error = Interface::with(MAC, Duration::from_millis(5)).unwrap_err();
        assert!(error.to_string().contains("02:00:00:ab:cd:ef"), "{error}");
    }

    #[test]
    fn what_the_kernel_refuses_is_named() {
        namespaces::inside("network::tests::what_the_kernel_refuses_is_named", || {
            make_interfaces();
            let mut network = network();
            network.addresses = vec![([10, 0, 2, 15].into(), 33)];
            let error = wire::chain(&set_up(Some(&network)).unwrap_err());
            assert!(
                error.contains("guest0 the address 10.0.2.15/33: EINVAL"),
                "{error}"
            );
        });
    }

    #[test]
    fn without_a_network_there_is_the_loopback_interface() {
        let name = "network::tests::without_a_network_there_is_the_loopback_interface";
        namespaces::inside(name, || {
            set_up(None).unwrap();
            has(&ip("-o addr show lo"), &["127.0.0.1/8", "::1/128"]);
        });
    }
}
