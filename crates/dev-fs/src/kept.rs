//! A file system whose inodes and handles outlive its process.
//!
//! It writes down what the guest is told, finds all of it again in another process's place, and carries
//! out a request that may have been carried out already so that the guest sees it done once.

use std::ffi::CStr;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::soft_idmap::{GuestGid, GuestUid};

use crate::journal::{Before, Open, Place};
use crate::table::{ROOT, Table, name_of, slot_of};

/// A file system that is served on in another process.
pub(crate) struct Kept<F> {
    pub(crate) inner: Arc<F>,
    table: Arc<Mutex<Table>>,
}

/// A file that a name stands for.
#[derive(Debug, Clone, Copy)]
struct Found {
    number: u64,
    /// Its slot, if the guest knows it.
    slot: Option<u32>,
    attributes: Attr,
}

/// The inode number, 0 if there is no file.
fn number(found: Option<Found>) -> u64 {
    found.map_or(0, |found| found.number)
}

impl<F> Clone for Kept<F> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            table: Arc::clone(&self.table),
        }
    }
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Kept<F> {
    pub(crate) fn new(inner: F, table: Table) -> Self {
        Self {
            inner: Arc::new(inner),
            table: Arc::new(Mutex::new(table)),
        }
    }

    /// The table, which one thread uses.
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn inode(&self, inode: u64) -> io::Result<u64> {
        let unfound = slot_of(inode).filter(|slot| self.table().is_unfound(*slot));
        if let Some(slot) = unfound {
            self.find(slot);
        }
        self.table().inode(inode)
    }

    fn handle(&self, handle: u64) -> io::Result<u64> {
        self.table().handle(handle)
    }

    /// Tells the guest of what virtiofsd has found or made.
    fn enter(&self, ctx: Context, parent: u64, name: &CStr, found: Entry) -> io::Result<Entry> {
        // There is none, and the guest may remember that.
        if found.inode == 0 {
            return Ok(found);
        }
        let parent = slot_of(parent).ok_or(Errno::EBADF)?;
        let place = Place::new(parent, name);
        // It may be one that another process has told the guest of.
        let known = self.slot(found.inode, found.attr.ino);
        let entered = self.table().enter(found.inode, found.attr.ino, &place);
        // virtiofsd counts each slot once.
        if known.is_some() || entered.is_err() {
            self.inner.forget(ctx, found.inode, 1);
        }
        let (inode, generation) = entered?;
        Ok(Entry {
            inode,
            generation: generation.into(),
            ..found
        })
    }

    /// What a name stands for, without telling the guest.
    fn look(&self, ctx: Context, parent: u64, name: &CStr) -> Option<Found> {
        let entry = self.inner.lookup(ctx, parent, name).ok()?;
        if entry.inode == 0 {
            return None;
        }
        let slot = self.slot(entry.inode, entry.attr.ino);
        self.inner.forget(ctx, entry.inode, 1);
        Some(Found {
            number: entry.attr.ino,
            slot,
            attributes: entry.attr,
        })
    }

    /// How things were before the request, and whether another process has begun it.
    fn before(&self, look: impl FnOnce() -> Before) -> (Before, bool) {
        let known = self.table().journal.before();
        if let Some(before) = known {
            return (before, true);
        }
        let before = look();
        self.table().journal.set_before(before);
        (before, false)
    }

    /// Makes an entry that must not be there yet.
    fn make(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        make: impl FnOnce(u64) -> io::Result<Entry>,
    ) -> io::Result<Entry> {
        let directory = self.inode(parent)?;
        let (before, again) = self.before(|| Before::one(number(self.look(ctx, directory, name))));
        let made = match make(directory) {
            Err(error) if again && before.source == 0 && is(&error, Errno::EEXIST) => {
                self.inner.lookup(ctx, directory, name)
            }
            made => made,
        };
        self.enter(ctx, parent, name, made?)
    }

    /// Removes an entry.
    fn remove(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        remove: impl FnOnce(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let directory = self.inode(parent)?;
        let place = Place::new(slot_of(parent).ok_or(Errno::EBADF)?, name);
        let found = self.look(ctx, directory, name);
        let (before, again) = self.before(|| {
            let slot = found.and_then(|found| found.slot);
            self.table().journal.set_moved([slot, None], [&place; 2]);
            Before::one(number(found))
        });
        let is_done = again && before.source != 0 && before.source != number(found);
        if !is_done {
            remove(directory)?;
        }
        let [slot, _] = self.table().journal.moved();
        if let Some(slot) = slot {
            self.leave(slot, &place);
        }
        Ok(())
    }

    /// An inode is no longer here.
    fn leave(&self, slot: u32, place: &Place) {
        let table = self.table();
        if table.journal.place(slot).as_ref() == Some(place) {
            table.journal.clear_name(slot);
        }
    }

    /// Opens a handle for the guest.
    fn open_handle(
        &self,
        ctx: Context,
        inode: u64,
        (flags, is_directory): (u32, bool),
        (handle, options): (Option<u64>, OpenOptions),
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let Some(inner) = handle else {
            return Ok((None, options));
        };
        let inode = slot_of(inode).ok_or(Errno::EBADF)?;
        let open = Open {
            inode,
            flags,
            is_directory,
        };
        let opened = self.table().open(inner, open);
        if opened.is_err() {
            self.close(ctx, open, inner);
        }
        Ok((Some(opened?), options))
    }

    fn close(&self, ctx: Context, open: Open, inner: u64) {
        if let Ok(inode) = self.inode(name_of(open.inode)) {
            // It fails for one that is closed.
            let _ = if open.is_directory {
                self.inner.releasedir(ctx, inode, open.flags, inner)
            } else {
                let flags = open.flags;
                self.inner
                    .release(ctx, inode, flags, inner, false, false, None)
            };
        }
    }

    /// The guest closes a handle.
    fn release_handle(
        &self,
        inode: u64,
        handle: u64,
        release: impl FnOnce(u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let (now_inode, now) = (self.inode(inode), self.handle(handle));
        let (before, again) = self.before(|| Before::one(now.is_ok().into()));
        let is_lost = |error: &io::Error| is(error, Errno::ESTALE);
        match (now_inode, now) {
            (Ok(inode), Ok(inner)) => release(inode, inner)?,
            (_, Err(_)) if again && before.source != 0 => {}
            // There is nothing left to be closed.
            (Err(error), _) | (Ok(_), Err(error)) if is_lost(&error) => {}
            (Err(error), _) | (_, Err(error)) => return Err(error),
        }
        self.table().close(handle);
        Ok(())
    }

    /// Whether an extended attribute is there, as [`Before::source`].
    fn has_xattr(&self, ctx: Context, inode: u64, name: &CStr) -> Before {
        let there = self.inner.getxattr(ctx, inode, name, 0).is_ok();
        Before::one(there.into())
    }
}

/// In whose name something is done that nobody asked for; virtiofsd cares only where it makes files.
pub(crate) fn nobody() -> Context {
    Context {
        uid: GuestUid::from(0),
        gid: GuestGid::from(0),
        pid: 0,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// Methods about an inode, and a handle of it if there is one.
macro_rules! translate {
    ($(fn $name:ident$(<$generic:ident: $bound:path>)?(&self, $ctx:ident: Context, $inode:ident: u64 $(, [$handle:ident])? $(, $arg:ident: $type:ty)*) -> $result:ty;)*) => {
        $(fn $name$(<$generic: $bound>)?(&self, $ctx: Context, $inode: u64 $(, $handle: u64)? $(, $arg: $type)*) -> $result {
            let $inode = self.inode($inode)?;
            $(let $handle = self.handle($handle)?;)?
            self.inner.$name($ctx, $inode $(, $handle)? $(, $arg)*)
        })*
    };
}

impl<F: FileSystem<Inode = u64, Handle = u64>> FileSystem for Kept<F> {
    type Inode = u64;
    type Handle = u64;
    type DirIter = F::DirIter;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let options = self.inner.init(capable)?;
        if self.table().resumes() {
            self.restore();
        } else {
            self.table().begin_session();
        }
        Ok(options)
    }

    fn destroy(&self) {
        self.table().begin_session();
        self.inner.destroy();
    }

    fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let found = self.inner.lookup(ctx, self.inode(parent)?, name)?;
        self.enter(ctx, parent, name, found)
    }

    fn forget(&self, _ctx: Context, inode: u64, count: u64) {
        self.table().forget(inode, count);
    }

    fn batch_forget(&self, _ctx: Context, requests: Vec<(u64, u64)>) {
        for (inode, count) in requests {
            self.table().forget(inode, count);
        }
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.make(ctx, parent, name, |parent| {
            self.inner.mkdir(ctx, parent, name, mode, umask, extensions)
        })
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        device: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.make(ctx, parent, name, |parent| {
            let inner = &self.inner;
            inner.mknod(ctx, parent, name, mode, device, umask, extensions)
        })
    }

    fn symlink(
        &self,
        ctx: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.make(ctx, parent, name, |parent| {
            self.inner.symlink(ctx, target, parent, name, extensions)
        })
    }

    fn link(&self, ctx: Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let inode = self.inode(inode)?;
        self.make(ctx, parent, name, |parent| {
            self.inner.link(ctx, inode, parent, name)
        })
    }

    fn create(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        let directory = self.inode(parent)?;
        let found = self.look(ctx, directory, name);
        let (before, again) = self.before(|| Before::one(number(found)));
        // Nobody was told of it, and the handle that made it can do what another could not.
        if again && before.source == 0 && found.is_some_and(is_empty_file) {
            self.inner.unlink(ctx, directory, name)?;
        }
        let inner = &self.inner;
        let created = inner.create(
            ctx, directory, name, mode, kill_priv, flags, umask, extensions,
        );
        let (entry, handle, options) = created?;
        let inode = entry.inode;
        let entry = self.enter(ctx, parent, name, entry).inspect_err(|_| {
            if let Some(handle) = handle {
                let _ = inner.release(ctx, inode, flags, handle, false, false, None);
            }
        })?;
        let opened = (handle, options);
        let (handle, options) = self.open_handle(ctx, entry.inode, (flags, false), opened)?;
        Ok((entry, handle, options))
    }

    fn unlink(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(ctx, parent, name, |parent| {
            self.inner.unlink(ctx, parent, name)
        })
    }

    fn rmdir(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove(ctx, parent, name, |parent| {
            self.inner.rmdir(ctx, parent, name)
        })
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
        let (from, to) = (self.inode(old_parent)?, self.inode(new_parent)?);
        let place = |parent, name| slot_of(parent).map(|parent| Place::new(parent, name));
        let places = (place(old_parent, old_name), place(new_parent, new_name));
        let (Some(old), Some(new)) = places else {
            return Err(Errno::EBADF.into());
        };
        let source = self.look(ctx, from, old_name);
        let target = self.look(ctx, to, new_name);
        let now = (number(source), number(target));
        let (before, again) = self.before(|| {
            let slot = |found: Option<Found>| found.and_then(|found| found.slot);
            let slots = [slot(source), slot(target)];
            self.table().journal.set_moved(slots, [&old, &new]);
            Before {
                source: now.0,
                target: now.1,
                size: 0,
            }
        });
        let is_exchange = flags & libc::RENAME_EXCHANGE != 0;
        let is_done = again
            && before.source != 0
            && if is_exchange {
                now == (before.target, before.source)
            } else {
                now.0 != before.source && now.1 == before.source
            };
        if !is_done {
            self.inner
                .rename(ctx, from, old_name, to, new_name, flags)?;
        }
        let [source, target] = self.table().journal.moved();
        if let Some(slot) = target.filter(|_| target != source) {
            if is_exchange {
                self.table().journal.set_place(slot, &old);
            } else {
                self.leave(slot, &new);
            }
        }
        if let Some(slot) = source.filter(|slot| *slot != ROOT) {
            self.table().journal.set_place(slot, &new);
        }
        Ok(())
    }

    fn open(
        &self,
        ctx: Context,
        inode: u64,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let opened = self.inner.open(ctx, self.inode(inode)?, kill_priv, flags)?;
        self.open_handle(ctx, inode, (flags, false), opened)
    }

    fn opendir(
        &self,
        ctx: Context,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let opened = self.inner.opendir(ctx, self.inode(inode)?, flags)?;
        self.open_handle(ctx, inode, (flags, true), opened)
    }

    fn release(
        &self,
        ctx: Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.release_handle(inode, handle, |inode, handle| {
            let inner = &self.inner;
            inner.release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
        })
    }

    fn releasedir(&self, ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        self.release_handle(inode, handle, |inode, handle| {
            self.inner.releasedir(ctx, inode, flags, handle)
        })
    }

    fn getattr(
        &self,
        ctx: Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(Attr, Duration)> {
        let handle = handle.map(|handle| self.handle(handle)).transpose()?;
        self.inner.getattr(ctx, self.inode(inode)?, handle)
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: u64,
        attributes: SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        let handle = handle.map(|handle| self.handle(handle)).transpose()?;
        let inode = self.inode(inode)?;
        self.inner.setattr(ctx, inode, attributes, handle, valid)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        reader: R,
        size: u32,
        mut offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        mut flags: u32,
    ) -> io::Result<usize> {
        let (inode, handle) = (self.inode(inode)?, self.handle(handle)?);
        let append = libc::O_APPEND.cast_unsigned();
        if flags & append != 0 && !delayed_write {
            let (now, _) = self.inner.getattr(ctx, inode, Some(handle))?;
            let (before, again) = self.before(|| Before {
                size: now.size,
                ..Before::default()
            });
            // What is there of it already is written again where it is.
            if again && now.size > before.size {
                (offset, flags) = (before.size, flags & !append);
            }
        }
        self.inner.write(
            ctx,
            inode,
            handle,
            reader,
            size,
            offset,
            lock_owner,
            delayed_write,
            kill_priv,
            flags,
        )
    }

    fn setxattr(
        &self,
        ctx: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        mut flags: u32,
        extra_flags: SetxattrFlags,
    ) -> io::Result<()> {
        let inode = self.inode(inode)?;
        let create = libc::XATTR_CREATE.cast_unsigned();
        if flags & create != 0 {
            let (before, again) = self.before(|| self.has_xattr(ctx, inode, name));
            if again && before.source == 0 {
                flags &= !create;
            }
        }
        self.inner
            .setxattr(ctx, inode, name, value, flags, extra_flags)
    }

    fn removexattr(&self, ctx: Context, inode: u64, name: &CStr) -> io::Result<()> {
        let inode = self.inode(inode)?;
        let (before, again) = self.before(|| self.has_xattr(ctx, inode, name));
        match self.inner.removexattr(ctx, inode, name) {
            Err(error) if again && before.source != 0 && is(&error, Errno::ENODATA) => Ok(()),
            removed => removed,
        }
    }

    fn copyfilerange(
        &self,
        ctx: Context,
        inode_in: u64,
        handle_in: u64,
        offset_in: u64,
        inode_out: u64,
        handle_out: u64,
        offset_out: u64,
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        let (inode_in, handle_in) = (self.inode(inode_in)?, self.handle(handle_in)?);
        let (inode_out, handle_out) = (self.inode(inode_out)?, self.handle(handle_out)?);
        self.inner.copyfilerange(
            ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, length, flags,
        )
    }

    translate! {
        fn readdir(&self, ctx: Context, inode: u64, [handle], size: u32, offset: u64) -> io::Result<F::DirIter>;
        fn readlink(&self, ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        fn read<W: ZeroCopyWriter>(&self, ctx: Context, inode: u64, [handle], writer: W, size: u32, offset: u64, lock_owner: Option<u64>, flags: u32) -> io::Result<usize>;
        fn flush(&self, ctx: Context, inode: u64, [handle], lock_owner: u64) -> io::Result<()>;
        fn fallocate(&self, ctx: Context, inode: u64, [handle], mode: u32, offset: u64, length: u64) -> io::Result<()>;
        fn lseek(&self, ctx: Context, inode: u64, [handle], offset: u64, whence: u32) -> io::Result<u64>;
        fn statfs(&self, ctx: Context, inode: u64) -> io::Result<libc::statvfs64>;
        fn getxattr(&self, ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        fn listxattr(&self, ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply>;
        fn access(&self, ctx: Context, inode: u64, mask: u32) -> io::Result<()>;
        fn syncfs(&self, ctx: Context, inode: u64) -> io::Result<()>;
    }

    fn fsync(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        let (inode, handle) = (self.inode(inode)?, self.handle(handle)?);
        self.inner.fsync(ctx, inode, datasync, handle)
    }

    fn fsyncdir(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        let (inode, handle) = (self.inode(inode)?, self.handle(handle)?);
        self.inner.fsyncdir(ctx, inode, datasync, handle)
    }
}

fn is_empty_file(found: Found) -> bool {
    found.attributes.size == 0 && found.attributes.mode & libc::S_IFMT == libc::S_IFREG
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::path::{Path, PathBuf};

    use tempfile::TempDir;
    use virtiofsd::passthrough::{self, PassthroughFs};

    use super::*;
    use crate::journal::Journal;
    use crate::journal::tests::{file, killed_after, step};

    type Fs = Kept<PassthroughFs>;

    /// A directory, a driver, and what outlives a process that serves the one to the other.
    struct World {
        directory: TempDir,
        journal: File,
        used: u16,
    }

    impl World {
        fn new() -> Self {
            Self {
                directory: tempfile::tempdir().unwrap(),
                journal: file(),
                used: 0,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// A process, which goes on where the one before has ended.
        fn life(&self) -> Fs {
            let journal = Journal::open(self.journal.try_clone().unwrap().into()).unwrap();
            let mut table = Table::new(journal);
            let used = [Some(0), Some(self.used)];
            assert!(table.journal.follows(used));
            let is_new = table.resume(used).is_none();
            let config = passthrough::Config {
                root_dir: self.directory.path().to_str().unwrap().to_owned(),
                xattr: true,
                ..passthrough::Config::default()
            };
            let fs = Kept::new(PassthroughFs::new(config).unwrap(), table);
            fs.init(FsOptions::empty()).unwrap();
            if is_new {
                fs.table().journal.set_init(b"init");
            }
            fs
        }

        /// Carries out a request, and gives the answer to the driver in `answer`.
        fn request<T>(&mut self, fs: &Fs, answer: &mut Option<T>, request: impl Fn(&Fs) -> T) {
            let unique = u64::from(self.used) + 1;
            fs.table().journal.begin(1, unique);
            let result = request(fs);
            step();
            *answer = Some(result);
            self.used += 1;
            for inode in fs.table().end() {
                fs.inner.forget(nobody(), inode, 1);
            }
        }

        fn ask<T>(&mut self, fs: &Fs, request: impl Fn(&Fs) -> T) -> T {
            let mut answer = None;
            self.request(fs, &mut answer, request);
            answer.unwrap()
        }
    }

    /// Kills the process at every step of `request`, which comes after `prepare`. `check` is given the
    /// process after it, and the only answer.
    fn killed_at_every_step<P: Copy, T>(
        prepare: impl Fn(&mut World, &Fs) -> P,
        request: impl Fn(&Fs, P) -> io::Result<T>,
        check: impl Fn(&World, &Fs, P, T),
    ) {
        for steps in 0.. {
            let mut world = World::new();
            let mut fs = world.life();
            let prepared = prepare(&mut world, &fs);
            let mut answer = None;
            let done = killed_after(steps, || {
                world.request(&fs, &mut answer, |fs| request(fs, prepared));
            });
            fs = world.life();
            if answer.is_none() {
                world.request(&fs, &mut answer, |fs| request(fs, prepared));
            }
            let answer = answer.unwrap().unwrap_or_else(|error| {
                panic!("killed after {steps} steps: {error}");
            });
            check(&world, &fs, prepared, answer);
            if done.is_some() {
                assert!(steps > 3, "something was written");
                break;
            }
        }
    }

    fn count(fs: &Fs, inode: u64) -> u32 {
        let slot = slot_of(inode).unwrap();
        let table = fs.table();
        if table.journal.is_inode(slot) {
            table.journal.count(slot)
        } else {
            0
        }
    }

    /// Inodes that the guest knows.
    fn known(fs: &Fs) -> usize {
        let table = fs.table();
        let slots = 1..table.journal.inodes();
        slots.filter(|slot| table.journal.is_inode(*slot)).count()
    }

    const ROOT_INODE: u64 = 1;

    fn look_up(fs: &Fs, name: &CStr) -> io::Result<Entry> {
        fs.lookup(nobody(), ROOT_INODE, name)
    }

    fn make_file(world: &mut World, fs: &Fs, name: &CStr) -> u64 {
        fs::write(world.path(name.to_str().unwrap()), "content").unwrap();
        world.ask(fs, |fs| look_up(fs, name)).unwrap().inode
    }

    fn rdwr() -> u32 {
        libc::O_RDWR.cast_unsigned()
    }

    #[test]
    fn a_name_is_looked_up_once() {
        killed_at_every_step(
            |world, _| fs::write(world.path("f"), "").unwrap(),
            |fs, ()| look_up(fs, c"f"),
            |_, fs, (), entry| assert_eq!((count(fs, entry.inode), known(fs)), (1, 1)),
        );
        killed_at_every_step(
            |world, fs| make_file(world, fs, c"f"),
            |fs, _| look_up(fs, c"f"),
            |_, fs, before, entry| {
                assert_eq!(entry.inode, before);
                assert_eq!((count(fs, entry.inode), known(fs)), (2, 1));
            },
        );
    }

    #[test]
    fn an_inode_is_forgotten_once() {
        killed_at_every_step(
            |world, fs| {
                make_file(world, fs, c"f");
                world.ask(fs, |fs| look_up(fs, c"f")).unwrap().inode
            },
            |fs, inode| {
                fs.forget(nobody(), inode, 1);
                Ok(())
            },
            |_, fs, inode, ()| assert_eq!(count(fs, inode), 1),
        );
        killed_at_every_step(
            |world, fs| make_file(world, fs, c"f"),
            |fs, inode| {
                fs.batch_forget(nobody(), vec![(inode, 1), (77, 1), (ROOT_INODE, 1)]);
                Ok(())
            },
            |_, fs, inode, ()| {
                assert_eq!((count(fs, inode), known(fs)), (0, 0));
                fs.inode(inode).unwrap_err();
            },
        );
    }

    #[test]
    fn an_entry_is_made_once() {
        let none = Extensions::default;
        killed_at_every_step(
            |_, _| (),
            |fs, ()| fs.mkdir(nobody(), ROOT_INODE, c"d", 0o700, 0, none()),
            |world, fs, (), entry| {
                assert!(world.path("d").is_dir());
                assert_eq!((count(fs, entry.inode), known(fs)), (1, 1));
            },
        );
        killed_at_every_step(
            |_, _| (),
            |fs, ()| fs.mknod(nobody(), ROOT_INODE, c"p", 0o010_600, 0, 0, none()),
            |world, _, (), _| {
                let kind = world.path("p").metadata().unwrap().file_type();
                assert!(kind.is_fifo());
            },
        );
        killed_at_every_step(
            |_, _| (),
            |fs, ()| fs.symlink(nobody(), c"to", ROOT_INODE, c"l", none()),
            |world, _, (), _| assert_eq!(fs::read_link(world.path("l")).unwrap(), Path::new("to")),
        );
        killed_at_every_step(
            |world, fs| make_file(world, fs, c"f"),
            |fs, inode| fs.link(nobody(), inode, ROOT_INODE, c"g"),
            |world, fs, inode, entry| {
                assert_eq!((entry.inode, count(fs, inode)), (inode, 2));
                assert_eq!(world.path("g").metadata().unwrap().nlink(), 2);
            },
        );
    }

    #[test]
    fn a_file_is_created_and_open_once() {
        let flags = rdwr() | libc::O_EXCL.cast_unsigned();
        killed_at_every_step(
            |_, _| (),
            |fs, ()| {
                let none = Extensions::default();
                fs.create(nobody(), ROOT_INODE, c"f", 0o400, false, flags, 0, none)
            },
            |world, fs, (), (entry, handle, _)| {
                assert_eq!(world.path("f").metadata().unwrap().mode() & 0o777, 0o400);
                assert_eq!((count(fs, entry.inode), known(fs)), (1, 1));
                fs.handle(handle.unwrap()).unwrap();
                assert_eq!(fs.table().journal.handles(), 1);
            },
        );
    }

    #[test]
    fn a_handle_is_opened_and_closed_once() {
        killed_at_every_step(
            |world, fs| make_file(world, fs, c"f"),
            |fs, inode| fs.open(nobody(), inode, false, rdwr()),
            |_, fs, _, (handle, _)| {
                assert_eq!(handle, Some(1));
                fs.handle(1).unwrap();
            },
        );
        killed_at_every_step(
            |world, fs| {
                let inode = make_file(world, fs, c"f");
                let opened = world.ask(fs, |fs| fs.open(nobody(), inode, false, rdwr()));
                (inode, opened.unwrap().0.unwrap())
            },
            |fs, (inode, handle)| fs.release(nobody(), inode, 0, handle, false, false, None),
            |_, fs, (inode, handle), ()| {
                fs.handle(handle).unwrap_err();
                fs.inode(inode).unwrap();
            },
        );
    }

    #[test]
    fn a_name_is_removed_once() {
        killed_at_every_step(
            |world, fs| make_file(world, fs, c"f"),
            |fs, _| fs.unlink(nobody(), ROOT_INODE, c"f"),
            |world, fs, inode, ()| {
                assert!(!world.path("f").exists());
                // Another file of that name is another file.
                fs::write(world.path("f"), "").unwrap();
                assert_eq!(count(fs, inode), 1);
                assert_ne!(look_up(fs, c"f").unwrap().inode, inode);
            },
        );
        killed_at_every_step(
            |world, _| fs::create_dir(world.path("d")).unwrap(),
            |fs, ()| fs.rmdir(nobody(), ROOT_INODE, c"d"),
            |world, _, (), ()| assert!(!world.path("d").exists()),
        );
    }

    #[test]
    fn a_file_is_moved_once_and_found_again() {
        for (flags, others) in [
            (0, 0),
            (libc::RENAME_NOREPLACE, 0),
            (0, 1),
            (libc::RENAME_EXCHANGE, 1),
        ] {
            killed_at_every_step(
                |world, fs| {
                    let moved = make_file(world, fs, c"f");
                    let other = (others > 0).then(|| make_file(world, fs, c"g"));
                    (moved, other)
                },
                |fs, _| fs.rename(nobody(), ROOT_INODE, c"f", ROOT_INODE, c"g", flags),
                |world, fs, (moved, other), ()| {
                    let is_exchange = flags == libc::RENAME_EXCHANGE;
                    assert_eq!(world.path("f").exists(), is_exchange);
                    let number = world.path("g").metadata().unwrap().ino();
                    let (attributes, _) = fs.getattr(nobody(), moved, None).unwrap();
                    assert_eq!(attributes.ino, number);
                    if let Some(other) = other.filter(|_| is_exchange) {
                        fs.getattr(nobody(), other, None).unwrap();
                    }
                    // As long as the process lives that saw it, what was replaced has no name only.
                    let fs = world.life();
                    if let Some(other) = other {
                        assert_eq!(fs.getattr(nobody(), other, None).is_ok(), is_exchange);
                    }
                },
            );
        }
    }

    #[test]
    fn an_attribute_is_set_and_removed_once() {
        let create = libc::XATTR_CREATE.cast_unsigned();
        let set = move |fs: &Fs, inode| {
            let none = SetxattrFlags::empty();
            fs.setxattr(nobody(), inode, c"user.a", b"value", create, none)
        };
        let is_there = |fs: &Fs, inode| fs.getxattr(nobody(), inode, c"user.a", 0).is_ok();
        killed_at_every_step(
            |world, fs| make_file(world, fs, c"f"),
            set,
            |_, fs, inode, ()| assert!(is_there(fs, inode)),
        );
        killed_at_every_step(
            |world, fs| {
                let inode = make_file(world, fs, c"f");
                world.ask(fs, |fs| set(fs, inode)).unwrap();
                inode
            },
            |fs, inode| fs.removexattr(nobody(), inode, c"user.a"),
            |_, fs, inode, ()| assert!(!is_there(fs, inode)),
        );
    }

    #[test]
    fn directories_that_are_in_each_other_are_lost() {
        let mut world = World::new();
        let fs = world.life();
        for name in ["a", "b"] {
            fs::create_dir(world.path(name)).unwrap();
        }
        let [a, b] = [c"a", c"b"].map(|name| world.ask(&fs, |fs| look_up(fs, name)).unwrap().inode);
        let slot = |inode| slot_of(inode).unwrap();
        for (inside, outside) in [(a, b), (b, a)] {
            let place = Place::new(slot(outside), c"x");
            fs.table().journal.set_place(slot(inside), &place);
        }
        let fs = world.life();
        for inode in [a, b] {
            assert!(is(&fs.inode(inode).unwrap_err(), Errno::ESTALE));
        }
    }
}
