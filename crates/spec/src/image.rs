//! What a root file system is made from.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::Error;

/// What a root file system is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// The host's own root, read-only below, writes discarded.
    Host,
    /// One static busybox with its applets.
    Busybox,
    /// A directory that holds a root file system, read-only below, writes discarded.
    Directory(PathBuf),
}

impl FromStr for Image {
    type Err = Error;

    /// `host`, `busybox`, or a path: one that begins with `/`, `./`, `../` or is `.` or `..`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| {
            Err(Error::Image {
                given: text.to_owned(),
                reason,
            })
        };
        match text {
            "host" => Ok(Self::Host),
            "busybox" => Ok(Self::Busybox),
            "" => wrong("it is empty; give host, busybox or a directory"),
            path if is_path(path) => Ok(Self::Directory(path.into())),
            _ => wrong(
                "this version runs host, busybox and directories; \
                 a directory is written with a leading / or ./",
            ),
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Busybox => f.write_str("busybox"),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// A path is told from a name by its first component.
fn is_path(text: &str) -> bool {
    matches!(text.split('/').next(), Some("" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        assert_eq!("host".parse(), Ok(Image::Host));
        assert_eq!("busybox".parse(), Ok(Image::Busybox));
        for path in ["/", "/srv/root", "./host", "../x", ".", ".."] {
            assert_eq!(path.parse(), Ok(Image::Directory(path.into())));
        }
    }

    #[test]
    fn other_names_are_refused_with_what_is_possible() {
        for name in ["", "alpine", "ghcr.io/x/y", "rootfs/"] {
            let message = name.parse::<Image>().unwrap_err().to_string();
            assert!(message.contains("busybox"), "{message}");
        }
    }
}
