//! Files of the host that are disks of the guest.

use std::{path::PathBuf, str::FromStr};

use crate::Error;

/// A file of the host, byte for byte a disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The file. Its length is the disk's, and a multiple of 512 bytes.
    pub path: PathBuf,
    /// The guest may not write.
    pub read_only: bool,
}

impl FromStr for Disk {
    type Err = Error;

    /// `PATH`, `PATH:ro` or `PATH:rw`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (path, read_only) = match text.rsplit_once(':') {
            Some((path, "ro")) => (path, true),
            Some((path, "rw")) => (path, false),
            _ => (text, false),
        };
        if path.is_empty() {
            return Err(Error::Disk(text.to_owned()));
        }
        Ok(Self {
            path: path.into(),
            read_only,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_writable_unless_it_says_ro() {
        for (text, path, read_only) in [
            ("a/b.img", "a/b.img", false),
            ("a:b.img:rw", "a:b.img", false),
            ("a.img:ro", "a.img", true),
        ] {
            let disk: Disk = text.parse().unwrap();
            assert_eq!((disk.path, disk.read_only), (path.into(), read_only));
        }
        for bad in ["", ":ro", ":rw"] {
            bad.parse::<Disk>().unwrap_err();
        }
    }
}
