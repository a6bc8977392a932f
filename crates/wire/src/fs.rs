//! What a file-system device is started with. It hears nothing more: its control channel only
//! tells it, by closing, to end.

use serde::{Deserialize, Serialize};

/// The size in bytes of a file-system device's journal: memory that its process shares with the one that
/// takes its place. Most of it is never touched.
pub const JOURNAL_SIZE: u64 = 318_836_736;

/// The start configuration of a file-system device. With it travel the resources `vhost-user` (a
/// listening socket with one connection queued), `root` (the directory to serve) and `journal`
/// ([`JOURNAL_SIZE`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name that the guest mounts it by: 1 to 36 bytes, none of them zero (virtio 1.2,
    /// section 5.11.4).
    pub tag: String,
    /// Refuse everything that would change the directory, whatever the guest asks.
    pub read_only: bool,
    /// What the guest may keep instead of asking again.
    pub cache: Cache,
    /// Let the guest collect writes and send them later. Only for a directory that nobody else
    /// uses meanwhile; needs a [`Cache`] other than [`Cache::Never`].
    pub writeback: bool,
    /// Pass extended attributes through.
    pub xattr: bool,
    /// Files have access control lists (acl(5)), which the guest heeds. Only with [`Ids::Same`]: they
    /// name users by numbers.
    pub acl: bool,
    /// Tell the guest where another file system is mounted below the directory, so that it
    /// presents each as a device of its own and no two files share device and inode number. Not
    /// for a directory that the guest puts under overlayfs, which refuses such places.
    pub submounts: bool,
    /// Whose files are whose.
    pub ids: Ids,
}

impl Config {
    /// The longest tag, in bytes (virtio 1.2, section 5.11.4).
    pub const MAX_TAG: usize = 36;
}

/// What the guest may keep, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cache {
    /// Nothing: every access is the host's answer. No shared memory mappings of files.
    Never,
    /// Names and attributes for a second, contents while a file is open: what others change is
    /// seen when a file is opened again.
    Auto,
    /// Everything. For directories that do not change from outside.
    Always,
}

/// How user and group numbers of the host and of the guest correspond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// The same numbers on both sides. Takes a device whose user namespace has them all: one that
    /// root started.
    Same,
    /// The device has one user and one group, those of whoever started it. Their files appear in
    /// the guest as `owner`'s, all others as `others`'. The guest's `owner` and its root work as
    /// that one user; no other user of the guest can create or be given a file.
    Single {
        /// Whom the guest takes for the owner of the user's files.
        owner: Owner,
        /// Whom the guest takes for the owner of everybody else's.
        others: Owner,
    },
}

/// A user and a group in the guest's numbers, each below 2^32 - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Owner {
    /// The superuser and its group.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
    /// What Linux shows for a number that a user namespace does not have, by default
    /// (`/proc/sys/kernel/overflowuid`): `nobody`.
    pub const NOBODY: Self = Self {
        uid: 65534,
        gid: 65534,
    };
}
