//! Who may do what at the same time, threads and processes alike.

use std::{
    fs::{File, TryLockError},
    thread,
    time::Duration,
};

use super::{Hold, Store};
use crate::{Error, Result, error::file, registry::Watch};

/// A lock, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "its life is the lock's")] File);

/// Between two looks at whether somebody else is done.
const LOOK: Duration = Duration::from_millis(50);

impl Store {
    /// Keeps everything that is in the store there until it is dropped: nobody prunes meanwhile.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn hold(&self) -> Result<Hold> {
        let (path, opened) = self.lock_file("store")?;
        opened.lock_shared().map_err(file("lock", path))?;
        Ok(Hold::new(opened))
    }

    /// Nobody else holds anything.
    pub(super) fn alone(&self) -> Result<Lock> {
        let (path, opened) = self.lock_file("store")?;
        match opened.try_lock() {
            Ok(()) => Ok(Lock(opened)),
            Err(TryLockError::WouldBlock) => Err(Error::Busy {
                path: self.root.clone(),
            }),
            Err(TryLockError::Error(error)) => Err(file("lock", path)(error)),
        }
    }

    /// One at a time, for things that are done soon.
    pub(super) fn exclusive(&self, name: &str) -> Result<Lock> {
        let (path, opened) = self.lock_file(name)?;
        opened.lock().map_err(file("lock", path))?;
        Ok(Lock(opened))
    }

    /// One at a time, for things that take long. `waiting` is called once, if somebody else is at it.
    pub(super) fn turn(
        &self,
        name: &str,
        watch: Watch<'_>,
        waiting: impl FnOnce(),
    ) -> Result<Lock> {
        let (path, opened) = self.lock_file(name)?;
        let mut waiting = Some(waiting);
        loop {
            match opened.try_lock() {
                Ok(()) => return Ok(Lock(opened)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(file("lock", path)(error)),
            }
            watch.check()?;
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            thread::sleep(LOOK);
        }
    }

    fn lock_file(&self, name: &str) -> Result<(std::path::PathBuf, File)> {
        let path = self.lock_path(name);
        let mut options = File::options();
        let opened = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let opened = opened.map_err(file("open", &path))?;
        Ok((path, opened))
    }
}
