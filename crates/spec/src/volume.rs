//! Directories that are kept for guests, by name.

use std::str::FromStr;

use crate::{Error, Name, Share};

/// A directory that is kept under a name, at a path of the guest. It is made when it is first used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: Name,
    /// The absolute path in the guest, as of a [`Share`].
    pub guest: String,
    /// The guest may not write.
    pub read_only: bool,
}

impl FromStr for Volume {
    type Err = Error;

    /// `NAME:GUEST`, `NAME:GUEST:ro` or `NAME:GUEST:rw`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let share: Share = text.parse().map_err(|error| match error {
            Error::Share { given, reason } => Error::Volume { given, reason },
            other => other,
        })?;
        let name = share.host.to_str().map(str::parse);
        Ok(Self {
            name: name.and_then(Result::ok).ok_or_else(|| Error::Volume {
                given: text.to_owned(),
                reason: "its name is none; directories of the host are shares",
            })?,
            guest: share.guest,
            read_only: share.read_only,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_a_name_and_a_path() {
        let volume: Volume = "data:/var/lib/data:ro".parse().unwrap();
        assert_eq!(
            (volume.name.as_str(), &*volume.guest),
            ("data", "/var/lib/data")
        );
        assert!(volume.read_only);
        for (bad, why) in [
            ("data", "no guest directory"),
            ("data:x", "not absolute"),
            ("/data:/x", "are shares"),
            ("./data:/x", "are shares"),
            (":/x", "empty"),
        ] {
            let message = bad.parse::<Volume>().unwrap_err().to_string();
            assert!(
                message.contains(why) && message.contains("volume"),
                "{bad}: {message}"
            );
        }
    }
}
