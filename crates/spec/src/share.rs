//! Directories of the host that the guest sees.

use std::{path::PathBuf, str::FromStr};

use crate::Error;

/// A directory of the host at a path of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The directory on the host.
    pub host: PathBuf,
    /// The absolute path in the guest, without `.` and `..`; never `/`.
    pub guest: String,
    /// The guest may not write.
    pub read_only: bool,
}

impl FromStr for Share {
    type Err = Error;

    /// `HOST:GUEST`, `HOST:GUEST:ro` or `HOST:GUEST:rw`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Share {
            given: text.to_owned(),
            reason,
        };
        let (paths, read_only) = match text.rsplit_once(':') {
            Some((paths, "ro")) => (paths, true),
            Some((paths, "rw")) => (paths, false),
            _ => (text, false),
        };
        let (host, guest) = paths
            .split_once(':')
            .ok_or_else(|| wrong("it has no guest directory"))?;
        if host.is_empty() {
            return Err(wrong("the host directory is empty"));
        }
        let guest = check_guest(guest).map_err(wrong)?;
        Ok(Self {
            host: host.into(),
            guest,
            read_only,
        })
    }
}

/// An absolute path below `/`, without empty components.
fn check_guest(path: &str) -> Result<String, &'static str> {
    let Some(relative) = path.strip_prefix('/') else {
        return Err("the guest directory is not absolute");
    };
    if path.contains([':', '\0']) {
        return Err(
            "the guest directory has a character that is not allowed, or a mode is misspelt",
        );
    }
    let parts: Vec<_> = relative
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err("the guest directory has . or .. in it");
    }
    if parts.is_empty() {
        return Err("the guest's / is its image");
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_writable_unless_it_says_ro() {
        let share: Share = "/a:/b".parse().unwrap();
        assert_eq!((share.guest.as_str(), share.read_only), ("/b", false));
        assert!("/a:/b:ro".parse::<Share>().unwrap().read_only);
        assert!(!"/a:/b:rw".parse::<Share>().unwrap().read_only);
    }

    #[test]
    fn guest_paths_are_made_plain() {
        assert_eq!("x://b//c/".parse::<Share>().unwrap().guest, "/b/c");
    }

    #[test]
    fn what_is_not_a_share_says_why() {
        for (bad, why) in [
            ("/a", "no guest directory"),
            (":/b", "host directory is empty"),
            ("/a:b", "not absolute"),
            ("/a:/", "guest's / is its image"),
            ("/a:/b/../c", ". or .."),
            ("/a:/b:wr", "misspelt"),
        ] {
            let message = bad.parse::<Share>().unwrap_err().to_string();
            assert!(message.contains(why), "{bad}: {message}");
        }
    }
}
