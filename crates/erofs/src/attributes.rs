//! What an inode is, and what is known of it besides its contents.

use crate::Xattrs;

/// A point in time, as Linux has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanos: u32,
}

/// Owner, permissions and the like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions with set-user-id, set-group-id and sticky bits; other bits are not looked at.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// When the contents changed last.
    pub mtime: Time,
    /// Extended attributes by their full names.
    pub xattrs: Xattrs,
}

impl Attributes {
    /// Of a directory that nobody described: 0755, root's.
    pub(crate) fn implicit() -> Self {
        Self {
            mode: 0o755,
            ..Self::default()
        }
    }
}

/// What has no contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A character device. 0/0 is what overlayfs takes for a whiteout.
    Character {
        /// Below 4096.
        major: u32,
        /// Below 1,048,576.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Below 4096.
        major: u32,
        /// Below 1,048,576.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, pipe or socket.
    Special(Special),
}

/// The device that stands for "not here, and not in the layers below".
pub(crate) const WHITEOUT: Special = Special::Character { major: 0, minor: 0 };

impl Kind {
    /// Whether overlayfs takes it for a whiteout.
    #[must_use]
    pub fn is_whiteout(self) -> bool {
        self == Self::Special(WHITEOUT)
    }
}
