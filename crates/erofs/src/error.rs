//! What can go wrong.

use std::io;

/// The longest part of a name that is shown, in bytes.
const SHOWN: usize = 200;

/// A name for a message: what cannot be printed is escaped, and the middle of a long one left out.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    let half = SHOWN / 2;
    let whole = name.len() <= SHOWN;
    let end = name.len().saturating_sub(half);
    let parts = match (name.get(..half), name.get(end..)) {
        (Some(first), Some(last)) if !whole => [first, b"...", last].concat(),
        _ => name.to_vec(),
    };
    String::from_utf8_lossy(&parts).escape_debug().to_string()
}

/// Why a layer cannot be written, or an image not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image cannot be written.
    #[error("cannot write the image")]
    Write(#[source] io::Error),
    /// The image would be larger than the format can say: 16 TiB.
    #[error("the image would be larger than 16 TiB")]
    ImageTooLarge,
    /// An entry's contents cannot be read.
    #[error("cannot read the contents of `{path}`")]
    Content {
        /// The entry.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// An entry's contents are shorter than announced.
    #[error("the contents of `{path}` end after {read} of {size} bytes")]
    Short {
        /// The entry.
        path: String,
        /// What was there.
        read: u64,
        /// What was announced.
        size: u64,
    },
    /// A path that no entry can have.
    #[error("`{path}` is no path for an entry: {why}")]
    Path {
        /// The entry.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something on the way is no directory.
    #[error("`{path}` cannot be in `{at}`, which is no directory")]
    NotDirectory {
        /// The entry.
        path: String,
        /// What is no directory.
        at: String,
    },
    /// A hard link's target is missing or a directory.
    #[error("`{path}` cannot be a hard link to `{target}`: {why}")]
    HardLink {
        /// The entry.
        path: String,
        /// What it should be another name of.
        target: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An attribute that the format has no room for.
    #[error("`{path}` cannot have {what}: {why}")]
    Attribute {
        /// The entry.
        path: String,
        /// The attribute.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The layer is larger than the caller lets it be.
    #[error("the layer has more than {most} {what}, which is the limit")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is let.
        most: u64,
    },
    /// Reading the image failed.
    #[error("cannot read the image")]
    Read(#[source] io::Error),
    /// The image is no such image, or damaged.
    #[error("the image is damaged: {0}")]
    Damaged(&'static str),
    /// The image is sound, but uses what is not read here.
    #[error("the image has {0}, which are not supported")]
    Unsupported(&'static str),
    /// There is nothing with this name.
    #[error("there is no `{0}`")]
    NotFound(String),
    /// Too many symbolic links.
    #[error("`{0}` leads through too many symbolic links")]
    Loop(String),
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_strange_names_are_shown_short_and_printable() {
        assert_eq!(shown(b"a\n\xff"), "a\\n\u{fffd}");
        let long = shown(&[b'x'; 10_000]);
        assert!(long.len() < 250 && long.contains("..."));
    }
}
