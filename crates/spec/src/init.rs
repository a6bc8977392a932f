//! Who is process 1.

use std::{fmt, str::FromStr};

use crate::Error;

/// The init of a root, which becomes the guest's process 1: an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init(String);

impl Init {
    /// Where systemd is in all distributions that have it: /lib leads to /usr/lib where that is one.
    const SYSTEMD: &str = "/lib/systemd/systemd";

    /// The path in the guest.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Init {
    type Err = Error;

    /// `systemd`, or an absolute path.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "systemd" => Ok(Self(Self::SYSTEMD.to_owned())),
            path if path.starts_with('/') && !path.contains('\0') => Ok(Self(path.to_owned())),
            _ => Err(Error::Init(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_where_it_always_is_and_others_have_paths() {
        let path = |text: &str| text.parse::<Init>().map(|init| init.path().to_owned());
        assert_eq!(path("systemd").unwrap(), "/lib/systemd/systemd");
        assert_eq!(path("/sbin/init").unwrap(), "/sbin/init");
        for wrong in ["", "init", "./init", "/sbin/\0"] {
            let message = path(wrong).unwrap_err().to_string();
            assert!(message.contains("systemd"), "{message}");
        }
    }
}
