//! What can go wrong.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{Digest, Platform};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any other error.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is at an address was not to be had.
    #[error("{reason}")]
    Fetch {
        /// What the server said, or what became of the connection.
        reason: String,
    },
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file system or a quota has no room left.
    #[error(
        "no room for {}: {needed} bytes more were needed; free some, or remove images and prune",
        path.display()
    )]
    Full {
        /// What was to be written.
        path: PathBuf,
        /// How many bytes were missing at least.
        needed: u64,
    },
    /// The store was made by another version.
    #[error(
        "the images in {} are kept in form {found}, and this program knows form {known}: remove that \
         directory, and they will be fetched again; or use the program that made it",
        path.display()
    )]
    StoreVersion {
        /// The store.
        path: PathBuf,
        /// What it says of itself.
        found: String,
        /// What it would have to say.
        known: u32,
    },
    /// Somebody uses what would have to be at rest.
    #[error("the images in {} are being used; prune when nothing is pulled or started", path.display())]
    Busy {
        /// The store.
        path: PathBuf,
    },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] spec::Error),
    /// What was asked for is no image of this kind.
    #[error("{0} is not kept in the store of images")]
    NotKept(String),
    /// It is not in the store, and was not to be fetched.
    #[error("{0} is not here; pull it first")]
    Missing(String),
    /// The registry wants to know who asks.
    #[error(
        "{registry} does not give {repository} to {who}: check the name, and if it is right, \
         `docker login {registry}` with a name that may have it{said}"
    )]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The image's path there.
        repository: String,
        /// Who asked.
        who: &'static str,
        /// The registry's words, if it said any.
        said: String,
    },
    /// The registry knows who asks, and refuses.
    #[error(
        "{registry} forbids {action} {repository}: ask its owner for access, or \
         `docker login {registry}` as somebody else{said}"
    )]
    Forbidden {
        /// The registry.
        registry: String,
        /// What was tried.
        action: &'static str,
        /// The image's path there.
        repository: String,
        /// The registry's words, if it said any.
        said: String,
    },
    /// The registry has no such thing.
    #[error("{registry} has no {what}: check the name and the tag{said}")]
    NotFound {
        /// The registry.
        registry: String,
        /// What it does not have.
        what: String,
        /// The registry's words, if it said any.
        said: String,
    },
    /// Any other answer that is no success.
    #[error("{registry} answered {status} to {what}{said}")]
    Status {
        /// The registry.
        registry: String,
        /// The number of HTTP.
        status: u16,
        /// What was asked.
        what: String,
        /// The registry's words, if it said any.
        said: String,
    },
    /// The connection could not be made, or broke.
    #[error("cannot talk to {registry}: check its name and your network")]
    Unreachable {
        /// The registry.
        registry: String,
        /// Why.
        source: Cause,
    },
    /// Nothing came for too long.
    #[error("{registry} sent nothing for {seconds} s; try again later")]
    Stalled {
        /// The registry.
        registry: String,
        /// How long.
        seconds: u64,
    },
    /// What came is not what was asked for.
    #[error("{what} has digest {found}, but {expected} was asked for: it was damaged or replaced")]
    WrongDigest {
        /// What it is.
        what: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More or less came than was said.
    #[error("{what} is {found} bytes long, but {expected} were said: it was damaged or replaced")]
    WrongSize {
        /// What it is.
        what: String,
        /// What was said.
        expected: u64,
        /// What came: `more than` or a number.
        found: String,
    },
    /// A document that is not what it should be.
    #[error("{what} cannot be used: {reason}")]
    Malformed {
        /// What it is.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image of the form that docker wrote before 2017.
    #[error(
        "{0} is an image of schema 1, which is no longer supported: pull and push it with a newer \
         docker, or look for a newer tag"
    )]
    Schema1(String),
    /// There is none for this machine.
    #[error("{name} has no image for {wanted}, but for {offered}; choose with --platform")]
    NoPlatform {
        /// The image.
        name: String,
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        offered: String,
    },
    /// Not a platform.
    #[error("\"{0}\" is not a platform: write OS/ARCHITECTURE[/VARIANT], as in linux/arm64")]
    Platform(String),
    /// A layer could not be unpacked.
    #[error("cannot unpack layer {layer}")]
    Unpack {
        /// The layer: the digest of its contents.
        layer: Digest,
        /// Why.
        source: Cause,
    },
    /// A file that the user wrote.
    #[error("{} cannot be used: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Credentials that cannot be read.
    #[error("cannot read the credentials for {registry} in {}: {reason}", path.display())]
    Credentials {
        /// The registry.
        registry: String,
        /// The file that has them or names who has.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something else failed first.
    #[error("given up, since another part failed")]
    Stopped,
}

impl Error {
    pub(crate) fn malformed(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what: what.into(),
            reason: reason.into(),
        }
    }
}

/// Wraps an I/O error with what was tried on what.
pub(crate) fn file(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

/// Wraps an error of writing; a full disk gets a name of its own.
pub(crate) fn written(path: &Path, needed: u64) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| match is_full(&source) {
        true => Error::Full { path, needed },
        false => Error::File {
            action: "write",
            path,
            source,
        },
    }
}

/// Whether there is no room: on the disk, in a quota, or below a limit of file sizes.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
