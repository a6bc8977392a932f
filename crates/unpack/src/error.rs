//! Why a layer cannot be unpacked.

use std::io;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it was started with.
    #[error("this was started without what it needs")]
    Resources(#[source] handoff::Error),
    /// Nobody is there to hear the outcome.
    #[error("the outcome cannot be told")]
    Control(#[source] handoff::Error),
    /// The compressed bytes make no sense, or end too early.
    #[error("the layer is not a sound {0} stream, or is cut off")]
    Compression(&'static str, #[source] io::Error),
    /// There is more than the caller lets there be.
    #[error("the layer has more than {0} bytes when it is unpacked, which is the limit")]
    TooLarge(u64),
    /// The archive cannot be read.
    #[error("cannot read the layer's archive")]
    Read(#[source] io::Error),
    /// The archive ends within an entry.
    #[error("the layer's archive is cut off after {0} bytes")]
    CutOff(u64),
    /// A header is none.
    #[error("the layer's archive is damaged: at byte {at} {why}")]
    Damaged {
        /// Bytes from the archive's beginning.
        at: u64,
        /// What is wrong there.
        why: &'static str,
    },
    /// An entry makes no sense.
    #[error("the entry `{path}` of the layer's archive makes no sense: {why}")]
    Entry {
        /// What it is called.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An entry is of a kind that no image has.
    #[error("the entry `{path}` of the layer's archive is of the unknown kind {kind:?}")]
    Kind {
        /// What it is called.
        path: String,
        /// The kind, as a character.
        kind: char,
    },
    /// The image does not take an entry, or cannot be written.
    #[error("the layer does not fit into an image")]
    Image(#[from] erofs::Error),
    /// The digest is another than the image's configuration says.
    #[error("the layer's digest is sha256:{found}, not sha256:{expected} as its image says")]
    Digest {
        /// In hexadecimal.
        expected: String,
        /// In hexadecimal.
        found: String,
    },
}

/// The result of everything here.
pub(crate) type Result<T> = std::result::Result<T, Error>;
