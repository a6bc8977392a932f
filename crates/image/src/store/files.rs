//! Files that are whole or not there.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    Result,
    error::{file, written},
};

/// What the names of unfinished files begin with.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// A file that gets its name when it is whole, and is removed if it never is.
#[derive(Debug)]
pub(super) struct Unfinished {
    path: PathBuf,
    file: File,
    done: bool,
}

impl Unfinished {
    /// In this directory, where it will stay.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{UNFINISHED}{}-{count}", process::id()));
        // One of the same name was left by a process that had our number.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file("remove", path)(error));
            }
            _ => {}
        }
        let mut options = File::options();
        let opened = options.read(true).write(true).create_new(true).open(&path);
        let opened = opened.map_err(written(&path, 0))?;
        Ok(Self {
            path,
            file: opened,
            done: false,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name.
    pub(super) fn finish(mut self, path: &Path) -> Result<()> {
        finish(&self.file, &self.path, path)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            // Pruning removes it, if this cannot.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes sure that a file's bytes are on the disk before its name is.
pub(super) fn finish(opened: &File, from: &Path, to: &Path) -> Result<()> {
    opened.sync_all().map_err(written(from, 0))?;
    fs::rename(from, to).map_err(written(to, 0))?;
    let directory = to.parent().unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(file("sync", directory))
}

/// Writes a small file at once.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let unfinished = Unfinished::new(path.parent().unwrap_or(Path::new(".")))?;
    let needed = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    unfinished
        .file()
        .write_all(bytes)
        .map_err(written(path, needed))?;
    unfinished.finish(path)
}

/// Whether there is a file of this name.
pub(super) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(file("look for", path))
}
