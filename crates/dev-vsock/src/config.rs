//! What the device is started with, checked.

use std::collections::BTreeSet;

/// A start message that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// virtio 1.2, section 5.10.4: 0, 1, 2 and 2^32 - 1 are reserved and the upper half is zero.
    #[error("guest CID {0} is reserved; choose one from 3 to 4294967294")]
    GuestCid(u64),
}

/// [`wire::vsock::Config`] that holds what it promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    guest_cid: u64,
    accept_ports: BTreeSet<u32>,
}

impl Config {
    /// The guest's context id.
    #[must_use]
    pub fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    /// Whether the guest may connect to this port of the host.
    #[must_use]
    pub fn accepts(&self, port: u32) -> bool {
        self.accept_ports.contains(&port)
    }
}

impl TryFrom<wire::vsock::Config> for Config {
    type Error = Error;

    fn try_from(config: wire::vsock::Config) -> Result<Self, Error> {
        if !(3..u64::from(u32::MAX)).contains(&config.guest_cid) {
            return Err(Error::GuestCid(config.guest_cid));
        }
        Ok(Self {
            guest_cid: config.guest_cid,
            accept_ports: config.accept_ports.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_context_ids_are_refused() {
        for guest_cid in [0, 1, 2, 0xffff_ffff, 0x1_0000_0003, u64::MAX] {
            let config = wire::vsock::Config {
                guest_cid,
                accept_ports: vec![],
            };
            assert!(Config::try_from(config).is_err(), "{guest_cid}");
        }
    }

    #[test]
    fn only_listed_ports_are_accepted() {
        let config = wire::vsock::Config {
            guest_cid: 3,
            accept_ports: vec![1025],
        };
        let config = Config::try_from(config).unwrap();
        assert!(config.accepts(1025));
        assert!(!config.accepts(1024));
    }
}
