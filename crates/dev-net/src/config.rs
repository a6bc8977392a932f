//! What the device is started with, checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::net::{Addresses, Backend, MAX_PAIRS, Rate, Subnet};

/// A start message that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// IEEE 802: the lowest bit of the first byte is the group bit.
    #[error("the hardware address {0:02x?} is none of a single card")]
    Mac([u8; 6]),
    /// virtio 1.2, section 5.1.4, and RFC 8200, section 5.
    #[error("an MTU of {0} bytes cannot be served; give {MTU_MIN} to {MTU_MAX}")]
    Mtu(u16),
    /// virtio 1.2, section 5.1.4.1, allows more. A TAP device is opened once for each.
    #[error("{0} pairs of queues cannot be served; give 1 to {MAX_PAIRS}, and 1 for a TAP device")]
    Pairs(u16),
    /// Addresses that are not apart.
    #[error(
        "guest {guest}, gateway {gateway} and host {host} are not three addresses of a /{prefix}"
    )]
    Subnet {
        /// The guest's.
        guest: IpAddr,
        /// The gateway's.
        gateway: IpAddr,
        /// The host's.
        host: IpAddr,
        /// The prefix.
        prefix: u8,
    },
    /// A rate of nothing.
    #[error("a rate of 0 lets nothing pass; leave it out, or use no network")]
    Rate,
}

const MTU_MIN: u16 = 1280;
const MTU_MAX: u16 = 65520;

/// [`wire::net::Config`] that holds what it promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    mac: [u8; 6],
    mtu: u16,
    pairs: u16,
    backend: Backend,
    sending: Option<Rate>,
    receiving: Option<Rate>,
}

impl Config {
    /// The guest's hardware address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The largest IP packet, 1280 to 65520 bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Pairs of queues, 1 to [`MAX_PAIRS`].
    #[must_use]
    pub fn pairs(&self) -> u16 {
        self.pairs
    }

    /// Where packets go.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What the guest may send, and what it may receive.
    #[must_use]
    pub fn rates(&self) -> (Option<Rate>, Option<Rate>) {
        (self.sending, self.receiving)
    }
}

impl TryFrom<wire::net::Config> for Config {
    type Error = Error;

    fn try_from(config: wire::net::Config) -> Result<Self, Error> {
        let wire::net::Config {
            mac,
            mtu,
            pairs,
            backend,
            sending,
            receiving,
        } = config;
        let [first, ..] = mac;
        if first & 1 != 0 || mac == [0; 6] {
            return Err(Error::Mac(mac));
        }
        if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            return Err(Error::Mtu(mtu));
        }
        let most = match &backend {
            Backend::User(addresses) => {
                check(addresses)?;
                MAX_PAIRS
            }
            Backend::Tap => 1,
        };
        if !(1..=most).contains(&pairs) {
            return Err(Error::Pairs(pairs));
        }
        let nothing = |rate: Rate| rate.bytes == Some(0) || rate.packets == Some(0);
        if sending.is_some_and(nothing) || receiving.is_some_and(nothing) {
            return Err(Error::Rate);
        }
        Ok(Self {
            mac,
            mtu,
            pairs,
            backend,
            sending,
            receiving,
        })
    }
}

fn check(addresses: &Addresses) -> Result<(), Error> {
    if let Some(subnet) = addresses.v4 {
        let bits = |address: Ipv4Addr| u128::from(address.to_bits()) << 96;
        apart(subnet, bits, 30)?;
    }
    if let Some(subnet) = addresses.v6 {
        apart(subnet, Ipv6Addr::to_bits, 126)?;
    }
    Ok(())
}

/// Three different addresses in a subnet that leaves room for them.
fn apart<A: Copy + PartialEq + Into<IpAddr>>(
    subnet: Subnet<A>,
    bits: impl Fn(A) -> u128,
    longest: u8,
) -> Result<(), Error> {
    let Subnet {
        guest,
        gateway,
        host,
        prefix,
    } = subnet;
    let network = |address| {
        bits(address)
            .checked_shr(128_u32.saturating_sub(prefix.into()))
            .unwrap_or(0)
    };
    let one_subnet = network(guest) == network(gateway) && network(guest) == network(host);
    let differ = guest != gateway && guest != host && gateway != host;
    if (1..=longest).contains(&prefix) && one_subnet && differ {
        return Ok(());
    }
    Err(Error::Subnet {
        guest: guest.into(),
        gateway: gateway.into(),
        host: host.into(),
        prefix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> wire::net::Config {
        wire::net::Config {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 65520,
            pairs: 1,
            backend: Backend::User(Addresses::default()),
            sending: None,
            receiving: None,
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut wire::net::Config), why: &str) {
        let mut config = config();
        change(&mut config);
        let message = Config::try_from(config).unwrap_err().to_string();
        assert!(message.contains(why), "{message}");
    }

    #[test]
    fn the_default_is_sound() {
        assert!(Config::try_from(config()).is_ok());
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        refused(|config| config.mac = [3, 0, 0, 0, 0, 1], "single card");
        refused(|config| config.mac = [0; 6], "single card");
        refused(|config| config.mtu = 1279, "1280 to 65520");
        refused(|config| config.mtu = 65521, "1280 to 65520");
        refused(|config| config.pairs = 0, "0 pairs");
        refused(|config| config.pairs = 9, "9 pairs");
        let tap = |config: &mut wire::net::Config| {
            config.backend = Backend::Tap;
            config.pairs = 2;
        };
        refused(tap, "1 for a TAP device");
        let rate = Rate {
            bytes: Some(0),
            burst: 1,
            packets: None,
        };
        refused(|config| config.sending = Some(rate), "rate of 0");
    }

    #[test]
    fn addresses_must_be_apart_and_in_one_subnet() {
        let with = |change: fn(&mut Addresses)| {
            move |config: &mut wire::net::Config| {
                let mut addresses = Addresses::default();
                change(&mut addresses);
                config.backend = Backend::User(addresses);
            }
        };
        let same = |addresses: &mut Addresses| {
            let subnet = addresses.v4.as_mut().unwrap();
            subnet.host = subnet.guest;
        };
        refused(with(same), "not three addresses");
        let outside = |addresses: &mut Addresses| {
            addresses.v4.as_mut().unwrap().host = Ipv4Addr::new(10, 0, 3, 3);
        };
        refused(with(outside), "not three addresses");
        refused(
            with(|addresses| addresses.v4.as_mut().unwrap().prefix = 31),
            "/31",
        );
        refused(
            with(|addresses| addresses.v6.as_mut().unwrap().prefix = 0),
            "/0",
        );
        refused(
            with(|addresses| addresses.v6.as_mut().unwrap().prefix = 127),
            "/127",
        );
    }
}
