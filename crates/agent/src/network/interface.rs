//! The interface with a certain hardware address.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use nix::{errno::Errno, ifaddrs::getifaddrs};

use crate::error::{Error, Result, cannot};

/// How often to look.
const STEP: Duration = Duration::from_millis(1);

/// A network interface.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
}

impl Interface {
    /// The one with this address, once it is there.
    pub(super) fn with(mac: [u8; 6], limit: Duration) -> Result<Self> {
        let start = Instant::now();
        loop {
            if let Some(found) = Self::find(mac).map_err(cannot("list the network interfaces"))? {
                return Ok(found);
            }
            if start.elapsed() > limit {
                let mac = Mac(mac).to_string();
                return Err(Error::NoInterface { mac });
            }
            thread::sleep(STEP);
        }
    }

    fn find(mac: [u8; 6]) -> nix::Result<Option<Self>> {
        for interface in getifaddrs()? {
            let address = interface.address.as_ref().and_then(|a| a.as_link_addr());
            let Some(link) = address.filter(|link| link.addr() == Some(mac)) else {
                continue;
            };
            let index = u32::try_from(link.ifindex()).map_err(|_| Errno::ERANGE)?;
            let name = interface.interface_name;
            return Ok(Some(Self { name, index }));
        }
        Ok(None)
    }
}

/// A hardware address for people.
struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
