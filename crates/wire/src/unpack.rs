//! Between the supervisor and the process that unpacks one layer of an image.

use serde::{Deserialize, Serialize};

/// What it is started with. With it travel the resources `layer`, open for reading at its beginning,
/// and `image`, an empty file that is open for reading and writing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What has to be undone to get at the archive.
    pub compression: Compression,
    /// The SHA-256 digest of the archive, all bytes of it (OCI image specification, "Layer DiffID").
    pub diff_id: [u8; 32],
    /// How large the layer may be.
    pub limits: Limits,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// It is an archive as it is.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
}

/// How large a layer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of the archive, and of all contents with the holes of sparse files.
    pub bytes: u64,
    /// Entries, and parents that have none of their own. At most a million are possible, whatever
    /// this says.
    pub entries: u64,
}

/// The one message that it sends, before it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The image is complete, and the archive's digest is right.
    Done(Summary),
    /// It is not; the text says why. What is in the file is of no use.
    Failed(String),
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Bytes of the archive.
    pub archive: u64,
    /// Bytes of the image: a multiple of 4096.
    pub image: u64,
    /// Inodes in the image.
    pub inodes: u64,
    /// Bytes of the contents of all files.
    pub contents: u64,
    /// Directories whose attributes the archive does not tell: 0755 and root's in the image.
    pub implicit: u64,
    /// The root hides all layers below, which overlayfs does not see: they are not to be mounted.
    pub opaque: bool,
}
