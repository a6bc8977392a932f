//! From the description of a machine's network to open sockets, and to what either side is told.

mod guest;
mod host;
#[cfg(test)]
pub(crate) mod namespace;
mod publish;
pub(crate) mod resolver;
pub(crate) mod tap;

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
};

use spec::Link;
use supervisor::{Device, Dialer, Uplink};
use wire::{
    agent,
    net::{Addresses, Backend, Config, DialerConfig, MAX_PAIRS},
};

use crate::{Error, MachineSpec, Network};

pub use publish::Published;
use resolver::Resolver;

/// The largest packet that a TAP device takes if nothing is said: Ethernet's, which is what it is
/// bridged to (RFC 894).
const TAP_MTU: u16 = 1500;

/// A machine's network.
#[derive(Default)]
pub struct Connected {
    /// What the guest sets up.
    pub guest: Option<agent::Network>,
    /// The device.
    pub device: Option<Device>,
    /// The ports that lead to the guest.
    pub published: Vec<Published>,
    /// What the caller should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Opens what the machine's network is made from. `pcap` is where packets are written as well.
///
/// # Errors
/// Which port, TAP device or file cannot be had.
pub fn connect(spec: &MachineSpec, pcap: Option<OwnedFd>) -> Result<Connected, Error> {
    match &spec.network {
        Network::None if pcap.is_some() => Err(Error::NothingToRecord),
        Network::None => Ok(Connected::default()),
        Network::User(user) => connect_user(spec, user, pcap),
        Network::Tap(tap) => connect_tap(tap, pcap),
    }
}

fn connect_user(
    spec: &MachineSpec,
    user: &spec::User,
    pcap: Option<OwnedFd>,
) -> Result<Connected, Error> {
    let (published, sockets) = publish::bind_all(&spec.publish)?;
    let read = Resolver::of_host();
    let warnings = read.warning().into_iter().collect();
    let resolver = read.unwrap_or_default();
    let addresses = Addresses {
        hostname: spec.hostname.as_str().to_owned(),
        search: resolver.search.clone(),
        ..Addresses::default()
    };
    let mac = random_mac()?;
    let mtu = user.link.mtu.unwrap_or(Link::MTU_MAX);
    let guest = guest::of_user(mac, mtu, &addresses);
    let config = Config {
        // One for each vCPU, as the guest's driver wants them.
        pairs: u16::from(spec.cpus.get()).min(MAX_PAIRS),
        ..config(mac, mtu, Backend::User(addresses), user.link)
    };
    let dialer = Dialer {
        config: DialerConfig {
            egress: host::egress(user),
            nameservers: resolver.nameservers.clone(),
            publish: published.iter().copied().map(Published::to_wire).collect(),
        },
        published: sockets,
        nameservers: resolver::changes(resolver.nameservers),
    };
    Ok(Connected {
        guest: Some(guest),
        device: Some(Device::net(&config, Uplink::User(dialer), pcap).map_err(too_long)?),
        published,
        warnings,
    })
}

fn connect_tap(tap: &spec::Tap, pcap: Option<OwnedFd>) -> Result<Connected, Error> {
    let device = tap::open(&tap.name)?;
    let mac = random_mac()?;
    let mtu = tap.link.mtu.unwrap_or(TAP_MTU);
    let config = config(mac, mtu, Backend::Tap, tap.link);
    Ok(Connected {
        guest: Some(guest::of_tap(mac, mtu, tap)),
        device: Some(Device::net(&config, Uplink::Tap(device), pcap).map_err(too_long)?),
        ..Connected::default()
    })
}

fn config(mac: [u8; 6], mtu: u16, backend: Backend, link: Link) -> Config {
    let rate = link.rate.map(|rate| host::rate(rate, mtu));
    Config {
        mac,
        mtu,
        pairs: 1,
        backend,
        sending: rate,
        receiving: rate,
    }
}

fn too_long(error: wire::Error) -> Error {
    supervisor::Error::from(error).into()
}

/// A hardware address that nobody was given: unicast and locally administered (IEEE 802, section
/// 8.2.2), the rest by chance.
pub(crate) fn random_mac() -> Result<[u8; 6], Error> {
    const SOURCE: &str = "/dev/urandom";
    let mut mac = [0; 6];
    let read = File::open(SOURCE).and_then(|mut source| source.read_exact(&mut mac));
    read.map_err(|source: io::Error| Error::Open {
        path: SOURCE.into(),
        source,
    })?;
    let [first, ..] = &mut mac;
    *first = *first & !0b11 | 0b10;
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(network: &str) -> MachineSpec {
        MachineSpec {
            network: network.parse().unwrap(),
            ..MachineSpec::new(crate::Image::Host)
        }
    }

    #[test]
    fn hardware_addresses_are_local_unicast_and_differ() {
        let (one, two) = (random_mac().unwrap(), random_mac().unwrap());
        assert_ne!(one, two);
        assert_eq!((one[0] & 0b11, two[0] & 0b11), (0b10, 0b10));
    }

    #[test]
    fn no_network_needs_nothing_and_records_nothing() {
        let none = connect(&spec("none"), None).unwrap();
        assert!(none.device.is_none() && none.guest.is_none());
        let file = File::open("/dev/null").unwrap();
        let error = connect(&spec("none"), Some(file.into())).err().unwrap();
        assert!(error.to_string().contains("--pcap"), "{error}");
    }

    #[test]
    fn a_user_mode_network_has_a_dialer_with_a_socket_for_each_published_port() {
        let mut spec = spec("user,mtu=9000,deny=10.0.0.0/8");
        spec.publish = vec!["0:80-82".parse().unwrap(), "0:53/udp".parse().unwrap()];
        let connected = connect(&spec, None).unwrap();
        let device = connected.device.unwrap();
        let config: Config = wire::decode(&device.config).unwrap();
        let dialer = device.dialer.unwrap();
        assert_eq!(config.mtu, 9000);
        assert_eq!(connected.guest.unwrap().mac, config.mac);
        assert_eq!(dialer.config.egress.rules[0].prefix, 8);
        assert_eq!(
            (dialer.published.len(), dialer.config.publish.len()),
            (4, 4)
        );
        let guest: Vec<u16> = connected.published.iter().map(|p| p.guest).collect();
        assert_eq!(guest, [80, 81, 82, 53]);
    }
}
