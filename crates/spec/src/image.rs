//! What a root file system is made from.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{Error, Reference};

/// What a root file system is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// The host's own root, read-only below, writes discarded.
    Host,
    /// One static busybox with its applets.
    Busybox,
    /// A directory that holds a root file system, read-only below, writes discarded.
    Directory(PathBuf),
    /// An image in a registry.
    Registry(Reference),
    /// An image in a directory with an OCI layout, as other tools write it.
    Layout {
        /// The directory.
        path: PathBuf,
        /// Which of its images, if there are several: the annotation
        /// `org.opencontainers.image.ref.name`.
        name: Option<String>,
    },
    /// The one image of a tar archive with an OCI layout.
    OciArchive {
        /// The archive.
        path: PathBuf,
    },
    /// An image in an archive that `docker save` wrote.
    DockerArchive {
        /// The archive.
        path: PathBuf,
        /// Which of its images, if there are several.
        name: Option<String>,
    },
}

impl FromStr for Image {
    type Err = Error;

    /// `host`, `busybox`; a path: one that begins with `/`, `./`, `../` or is `.` or `..`;
    /// `oci:DIR[:NAME]`, `oci-archive:FILE`, `docker-archive:FILE[:NAME]`; or a [`Reference`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| {
            Err(Error::Image {
                given: text.to_owned(),
                reason,
            })
        };
        match text {
            "host" => return Ok(Self::Host),
            "busybox" => return Ok(Self::Busybox),
            "" => return wrong("it is empty; give host, busybox, a directory or a name"),
            path if is_path(path) => return Ok(Self::Directory(path.into())),
            _ => {}
        }
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            // A tag of an image that is called so has to be written with its registry.
            "oci" | "oci-archive" | "docker-archive"
                if rest.is_empty() || rest.starts_with(':') =>
            {
                wrong("after the colon comes a path")
            }
            "oci" => Ok(path_and_name(rest, |path, name| Self::Layout {
                path,
                name,
            })),
            "oci-archive" => Ok(Self::OciArchive { path: rest.into() }),
            "docker-archive" => Ok(path_and_name(rest, |path, name| Self::DockerArchive {
                path,
                name,
            })),
            _ => text.parse().map(Self::Registry),
        }
    }
}

/// As other tools have it, the first colon ends the path: names contain colons too.
fn path_and_name(text: &str, image: fn(PathBuf, Option<String>) -> Image) -> Image {
    match text.split_once(':') {
        Some((path, name)) => image(path.into(), Some(name.to_owned())),
        None => image(text.into(), None),
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Busybox => f.write_str("busybox"),
            Self::Directory(path) => path.display().fmt(f),
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout { path, name } => named(f, "oci", path, name.as_deref()),
            Self::OciArchive { path } => named(f, "oci-archive", path, None),
            Self::DockerArchive { path, name } => named(f, "docker-archive", path, name.as_deref()),
        }
    }
}

fn named(f: &mut fmt::Formatter<'_>, kind: &str, path: &Path, name: Option<&str>) -> fmt::Result {
    write!(f, "{kind}:{}", path.display())?;
    match name {
        Some(name) => write!(f, ":{name}"),
        None => Ok(()),
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
    fn names_of_registries_and_files_are_told_apart_and_written_as_they_are_read() {
        let name = Some("docker.io/library/x:1".to_owned());
        let path = || PathBuf::from("some/where");
        for (text, image) in [
            (
                "oci:some/where",
                Image::Layout {
                    path: path(),
                    name: None,
                },
            ),
            (
                "oci:some/where:docker.io/library/x:1",
                Image::Layout {
                    path: path(),
                    name: name.clone(),
                },
            ),
            ("oci-archive:some/where", Image::OciArchive { path: path() }),
            (
                "docker-archive:some/where",
                Image::DockerArchive {
                    path: path(),
                    name: None,
                },
            ),
            (
                "docker-archive:some/where:docker.io/library/x:1",
                Image::DockerArchive { path: path(), name },
            ),
            (
                "docker.io/library/busybox:latest",
                Image::Registry("docker.io/library/busybox".parse().unwrap()),
            ),
        ] {
            assert_eq!(text.parse(), Ok(image.clone()));
            assert_eq!(image.to_string(), text);
        }
        assert_eq!(
            "alpine".parse(),
            Ok(Image::Registry("alpine".parse().unwrap()))
        );
    }

    #[test]
    fn what_names_no_image_is_refused_with_what_is_possible() {
        for name in ["", "Alpine", "rootfs/"] {
            let message = name.parse::<Image>().unwrap_err().to_string();
            assert!(message.contains("busybox"), "{message}");
            assert!(message.contains("directory"), "{message}");
        }
        for name in ["oci:", "oci::x", "oci-archive:", "docker-archive"] {
            let message = name.parse::<Image>().unwrap_err().to_string();
            assert!(message.contains("path"), "{message}");
        }
    }
}
