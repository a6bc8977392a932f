//! What a block device is started with. It hears nothing more: its control channel only tells it, by
//! closing, to end.

use serde::{Deserialize, Serialize};

/// The start configuration of a block device. With it travel the resources `vhost-user` (a listening
/// socket with one connection queued) and one open file for each extent ([`Config::resource`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the guest is told as the disk's serial number: at most [`Config::MAX_SERIAL`] bytes of
    /// printable ASCII.
    pub serial: String,
    /// Nothing can be written. The files must then be open for reading alone, else for reading and
    /// writing.
    pub read_only: bool,
    /// What the disk is made of, one after the other: 1 to [`Config::MAX_EXTENTS`].
    pub extents: Vec<Extent>,
    /// Queues for requests, 1 to [`Config::MAX_QUEUES`].
    pub queues: u16,
}

/// A part of a disk: an open file from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// How much of the disk it is, in sectors of [`Config::SECTOR`] bytes: at least one, and in all
    /// extents but the last a multiple of [`Config::ALIGNMENT`]. A file that is shorter reads as
    /// zeros behind its end, and cannot be written.
    pub sectors: u64,
}

impl Config {
    /// Bytes of a sector (virtio 1.2, section 5.2.4).
    pub const SECTOR: u64 = 512;
    /// Sectors of a page: where an extent may begin.
    pub const ALIGNMENT: u64 = 8;
    /// The longest serial number in bytes (virtio 1.2, section 5.2.6: `VIRTIO_BLK_T_GET_ID`).
    pub const MAX_SERIAL: usize = 20;
    /// The most extents: an image has at most 127 layers, and a partition table two parts.
    pub const MAX_EXTENTS: usize = 129;
    /// The most queues.
    pub const MAX_QUEUES: u16 = 16;
    /// Entries of a queue.
    pub const QUEUE_SIZE: u16 = 256;

    /// What the file of this extent is called among the resources.
    #[must_use]
    pub fn resource(extent: usize) -> String {
        format!("extent{extent}")
    }
}
