//! What stands between the guest's requests and the passthrough file system: checks that virtiofsd
//! leaves to the sandbox around it, and we do not.
//!
//! virtiofsd looks names up beneath their directory (openat2, `RESOLVE_IN_ROOT`), but gives them
//! to unlinkat, renameat, mkdirat, mknodat, symlinkat and linkat as they come. An honest guest
//! kernel sends single names; a hostile one may send `../../etc/passwd`. Landlock stops most of
//! these too; here every name is refused that is not the name of an entry.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use nix::errno::Errno;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::soft_idmap::Id;
use wire::fs::Owner;

use crate::listing::{Listing, Listings};

/// A file system whose requests are checked before `inner` sees them.
pub(crate) struct Guard<F: FileSystem> {
    inner: F,
    /// The inodes that were looked up under the names of [`Rules::closed`]. Numbers are not used
    /// twice, so one that the guest has forgotten does no harm.
    closed: RwLock<BTreeSet<u64>>,
    listings: Listings,
    rules: Rules,
}

/// What a [`Guard`] does besides checking names.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Directories directly in the served one that appear with their attributes, but as if there
    /// were nothing in them.
    pub(crate) closed: Vec<CString>,
    /// How long the guest may remember that a name does not exist.
    pub(crate) absent: Option<Duration>,
    /// The only owner that files can have besides root, if there is only one.
    pub(crate) owner: Option<Owner>,
}

impl Rules {
    /// Whether something may be made by the guest's user `uid`. The group does not matter: what is
    /// made belongs to the only one there is.
    fn may_make(&self, uid: u32) -> bool {
        self.owner.is_none_or(|owner| uid == 0 || uid == owner.uid)
    }

    fn may_own(&self, uid: Option<u32>, gid: Option<u32>) -> bool {
        self.owner.is_none_or(|owner| {
            uid.is_none_or(|uid| uid == 0 || uid == owner.uid)
                && gid.is_none_or(|gid| gid == 0 || gid == owner.gid)
        })
    }
}

impl<F: FileSystem<Inode = u64>> Guard<F> {
    pub(crate) fn new(inner: F, rules: Rules) -> Self {
        Self {
            inner,
            closed: RwLock::default(),
            listings: Listings::default(),
            rules,
        }
    }

    fn is_closed(&self, inode: u64) -> bool {
        !self.rules.closed.is_empty()
            && self
                .closed
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&inode)
    }

    /// Checks an entry that is to be made in the name of whoever the request is from.
    fn check_new(&self, ctx: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.check(parent, name)?;
        if !self.rules.may_make(ctx.uid.into_inner()) {
            return Err(Errno::EACCES.into());
        }
        Ok(())
    }

    /// Checks an entry that is to be changed or removed.
    fn check(&self, parent: u64, name: &CStr) -> io::Result<()> {
        if !is_entry_name(name) {
            return Err(Errno::EINVAL.into());
        }
        if self.is_closed(parent) {
            return Err(Errno::EACCES.into());
        }
        Ok(())
    }

    fn note_closed(&self, parent: u64, name: &CStr, entry: &Entry) {
        if parent == fuse::ROOT_ID && self.rules.closed.iter().any(|closed| **closed == *name) {
            self.closed
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(entry.inode);
        }
    }

    fn absent(&self, error: io::Error) -> io::Result<Entry> {
        match self.rules.absent {
            Some(entry_timeout) if error.kind() == io::ErrorKind::NotFound => Ok(Entry {
                inode: 0,
                generation: 0,
                attr: fuse::Attr::default(),
                attr_timeout: Duration::ZERO,
                entry_timeout,
            }),
            _ => Err(error),
        }
    }
}

/// Whether `name` can only name an entry of the directory it is looked up in.
fn is_entry_name(name: &CStr) -> bool {
    let name = name.to_bytes();
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')
}

/// Methods that pass through as they are: they name their object by inode or handle alone.
macro_rules! pass {
    ($(fn $name:ident$(<$generic:ident: $bound:path>)?(&self $(, $arg:ident: $type:ty)*) $(-> $result:ty)?;)*) => {
        $(fn $name$(<$generic: $bound>)?(&self $(, $arg: $type)*) $(-> $result)? {
            self.inner.$name($($arg),*)
        })*
    };
}

/// Methods that make an entry, and pass through once that has been checked.
macro_rules! check_new {
    ($(fn $name:ident(&self, $ctx:ident: Context $(, $arg:ident: $type:ty)*) -> $result:ty, $parent:ident / $entry:ident;)*) => {
        $(fn $name(&self, $ctx: Context $(, $arg: $type)*) -> $result {
            self.check_new(&$ctx, $parent, $entry)?;
            self.inner.$name($ctx $(, $arg)*)
        })*
    };
}

impl<F: FileSystem<Inode = u64, Handle = u64>> FileSystem for Guard<F> {
    type Inode = u64;
    type Handle = u64;
    type DirIter = Listing;

    fn readdir(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
    ) -> io::Result<Listing> {
        if offset != 0
            && let Some(rest) = self.listings.after(handle, offset)
        {
            return Ok(rest);
        }
        let read = self.inner.readdir(ctx, inode, handle, size, offset)?;
        Ok(self.listings.read(handle, read))
    }

    fn releasedir(&self, ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        self.listings.forget(handle);
        self.inner.releasedir(ctx, inode, flags, handle)
    }

    fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        if !is_entry_name(name) {
            return Err(Errno::EINVAL.into());
        }
        if self.is_closed(parent) {
            return Err(Errno::ENOENT.into());
        }
        match self.inner.lookup(ctx, parent, name) {
            Ok(entry) => {
                self.note_closed(parent, name, &entry);
                Ok(entry)
            }
            Err(error) => self.absent(error),
        }
    }

    fn opendir(
        &self,
        ctx: Context,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        if self.is_closed(inode) {
            return Err(Errno::EACCES.into());
        }
        self.inner.opendir(ctx, inode, flags)
    }

    fn open(
        &self,
        ctx: Context,
        inode: u64,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        // A directory opens by this request too, and the handle would list it.
        if self.is_closed(inode) {
            return Err(Errno::EACCES.into());
        }
        self.inner.open(ctx, inode, kill_priv, flags)
    }

    fn rename(
        &self,
        ctx: Context,
        old_parent: u64,
        old_name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.check(old_parent, old_name)?;
        self.check(new_parent, new_name)?;
        self.inner
            .rename(ctx, old_parent, old_name, new_parent, new_name, flags)
    }

    fn unlink(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.check(parent, name)?;
        self.inner.unlink(ctx, parent, name)
    }

    fn rmdir(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.check(parent, name)?;
        self.inner.rmdir(ctx, parent, name)
    }

    fn link(&self, ctx: Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.check(parent, name)?;
        self.inner.link(ctx, inode, parent, name)
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: u64,
        attr: fuse::SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(fuse::Attr, Duration)> {
        let uid = valid
            .contains(SetattrValid::UID)
            .then_some(attr.uid.into_inner());
        let gid = valid
            .contains(SetattrValid::GID)
            .then_some(attr.gid.into_inner());
        if !self.rules.may_own(uid, gid) {
            return Err(Errno::EPERM.into());
        }
        self.inner.setattr(ctx, inode, attr, handle, valid)
    }

    check_new! {
        fn symlink(&self, ctx: Context, target: &CStr, parent: u64, name: &CStr, extensions: Extensions) -> io::Result<Entry>, parent / name;
        fn mknod(&self, ctx: Context, parent: u64, name: &CStr, mode: u32, device: u32, umask: u32, extensions: Extensions) -> io::Result<Entry>, parent / name;
        fn mkdir(&self, ctx: Context, parent: u64, name: &CStr, mode: u32, umask: u32, extensions: Extensions) -> io::Result<Entry>, parent / name;
        fn create(&self, ctx: Context, parent: u64, name: &CStr, mode: u32, kill_priv: bool, flags: u32, umask: u32, extensions: Extensions) -> io::Result<(Entry, Option<u64>, OpenOptions)>, parent / name;
    }

    pass! {
        fn init(&self, capable: FsOptions) -> io::Result<FsOptions>;
        fn destroy(&self);
        fn forget(&self, ctx: Context, inode: u64, count: u64);
        fn batch_forget(&self, ctx: Context, requests: Vec<(u64, u64)>);
        fn getattr(&self, ctx: Context, inode: u64, handle: Option<u64>) -> io::Result<(fuse::Attr, Duration)>;
        fn readlink(&self, ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        fn read<W: ZeroCopyWriter>(&self, ctx: Context, inode: u64, handle: u64, writer: W, size: u32, offset: u64, lock_owner: Option<u64>, flags: u32) -> io::Result<usize>;
        fn write<R: ZeroCopyReader>(&self, ctx: Context, inode: u64, handle: u64, reader: R, size: u32, offset: u64, lock_owner: Option<u64>, delayed_write: bool, kill_priv: bool, flags: u32) -> io::Result<usize>;
        fn flush(&self, ctx: Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()>;
        fn fsync(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fn fallocate(&self, ctx: Context, inode: u64, handle: u64, mode: u32, offset: u64, length: u64) -> io::Result<()>;
        fn release(&self, ctx: Context, inode: u64, flags: u32, handle: u64, flush: bool, flock_release: bool, lock_owner: Option<u64>) -> io::Result<()>;
        fn statfs(&self, ctx: Context, inode: u64) -> io::Result<nix::libc::statvfs64>;
        fn setxattr(&self, ctx: Context, inode: u64, name: &CStr, value: &[u8], flags: u32, extra_flags: SetxattrFlags) -> io::Result<()>;
        fn getxattr(&self, ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        fn listxattr(&self, ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply>;
        fn removexattr(&self, ctx: Context, inode: u64, name: &CStr) -> io::Result<()>;
        fn fsyncdir(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fn access(&self, ctx: Context, inode: u64, mask: u32) -> io::Result<()>;
        fn lseek(&self, ctx: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64>;
        fn copyfilerange(&self, ctx: Context, inode_in: u64, handle_in: u64, offset_in: u64, inode_out: u64, handle_out: u64, offset_out: u64, length: u64, flags: u64) -> io::Result<usize>;
        fn syncfs(&self, ctx: Context, inode: u64) -> io::Result<()>;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_entries_pass() {
        for name in [c"a", c"...", c".hidden", c"a b", c"-", c"\xff\xfe"] {
            assert!(is_entry_name(name), "{name:?}");
        }
        for name in [
            c"",
            c".",
            c"..",
            c"/",
            c"a/b",
            c"../x",
            c"/etc/passwd",
            c"a/",
        ] {
            assert!(!is_entry_name(name), "{name:?}");
        }
    }
}
