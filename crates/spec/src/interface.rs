//! Interfaces of the host, and their addresses.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{Error, network};

/// The name of an interface as Linux takes it: 1 to 15 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface(String);

impl Interface {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Interface {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // Of a name with a percent sign the kernel would make another one.
        let odd = |c: char| matches!(c, '/' | ':' | '%' | '\0') || c.is_whitespace();
        let sound =
            (1..=15).contains(&text.len()) && !matches!(text, "." | "..") && !text.contains(odd);
        sound
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| Error::Interface(text.to_owned()))
    }
}

/// An address of an interface, and how much of it is its subnet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// The bits of its subnet's prefix: 0 to 32, or to 128 for IPv6.
    pub prefix: u8,
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for InterfaceAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match network::interface_address(text) {
            Ok((address, prefix)) => Ok(Self { address, prefix }),
            Err(reason) => Err(Error::InterfaceAddress(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_linux_keeps_as_it_is() {
        for good in ["tap0", "br-lan", "a.5", "x".repeat(15).as_str()] {
            assert_eq!(good.parse::<Interface>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "tap%d", &"x".repeat(16)] {
            let message = bad.parse::<Interface>().unwrap_err().to_string();
            assert!(message.contains("not an interface's name"), "{message}");
        }
    }

    #[test]
    fn an_address_comes_with_its_prefix() {
        for good in ["192.0.2.1/24", "2001:db8::1/64"] {
            assert_eq!(good.parse::<InterfaceAddress>().unwrap().to_string(), good);
        }
        for (bad, why) in [
            ("192.0.2.1", "as in 192.0.2.2/24"),
            ("192.0.2.1/33", "from 0 to 32"),
            ("gateway/24", "not an address"),
        ] {
            let message = bad.parse::<InterfaceAddress>().unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }
}
