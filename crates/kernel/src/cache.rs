//! Where fetched and assembled things are kept.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::error::{Error, Result, file};

/// A directory of whole things: whatever has its final name in it is complete.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `$XDG_CACHE_HOME/crumblecracker`, or `~/.cache/crumblecracker`.
    ///
    /// # Errors
    /// [`Error::NoCache`] if neither variable is set to an absolute path.
    pub fn of_user() -> Result<Self> {
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|base| Self::at(base.join("crumblecracker")))
            .ok_or(Error::NoCache)
    }

    /// A cache in this directory, which is made when first needed.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The cache's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where kernels are kept.
    pub(crate) fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    /// Where the tuned kernel is put by those who build it.
    #[must_use]
    pub fn tuned(&self) -> PathBuf {
        self.kernels().join("tuned").join("vmlinux")
    }

    /// Writes `bytes` to `path` so that a reader finds all of them or nothing.
    pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(file("make the directory", directory))?;
        let temporary = directory.join(temporary_name());
        let written = fs::File::create(&temporary)
            .and_then(|mut out| out.write_all(bytes))
            .and_then(|()| fs::rename(&temporary, path));
        written.map_err(|error| {
            // Nothing more can be done about a temporary file that cannot even be removed.
            let _ = fs::remove_file(&temporary);
            file("write", path)(error)
        })
    }
}

/// A name that no other thread or process uses, and that is recognised as left over by its prefix.
pub(crate) fn temporary_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{TEMPORARY}{}-{count}", process::id())
}

/// What the names of unfinished things begin with.
pub(crate) const TEMPORARY: &str = ".unfinished-";
