//! Where things are: the workspace, its binaries, the keeper's directory.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    build::TARGET,
    error::{Error, Result, file},
};

/// The environment variable that names the directory of the product's binaries, for those who
/// built them already.
pub const BIN_DIR: &str = "CRUMBLE_BIN_DIR";

/// The workspace that this was built from.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Where the product's binaries are: [`BIN_DIR`], else where [`crate::build`] puts them.
#[must_use]
pub fn bin_dir() -> PathBuf {
    env::var_os(BIN_DIR).map_or_else(built, PathBuf::from)
}

/// Where [`crate::build`] puts the binaries.
pub(crate) fn built() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace().join(target).join(TARGET).join("release")
}

/// The keeper's directory: one a user, workspace and number.
#[derive(Debug, Clone)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// The directory for this workspace's box of this number; it need not exist.
    pub(crate) fn of(workspace: &Path, number: usize) -> Self {
        let hash = blake3::hash(workspace.as_os_str().as_encoded_bytes()).to_hex();
        let name = hash.get(..8).unwrap_or_default();
        Self(base().join(format!("{name}-{number}")))
    }

    /// Makes the directory, and makes sure that it is nobody else's.
    pub(crate) fn make(&self) -> Result<()> {
        for directory in [self.0.parent().unwrap_or(&self.0), &self.0] {
            private(directory)?;
        }
        Ok(())
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Held, with an flock, for as long as the keeper lives; contains its process id.
    pub(crate) fn lock(&self) -> PathBuf {
        self.join("lock")
    }

    /// Where clients connect.
    pub(crate) fn socket(&self) -> PathBuf {
        self.join("socket")
    }

    /// What the keeper and its children say, and the box's console.
    pub(crate) fn log(&self) -> PathBuf {
        self.join("log")
    }

    /// The log of a box that ended badly, when there is a newer one.
    pub(crate) fn earlier_log(&self) -> PathBuf {
        self.join("log.earlier")
    }

    /// Removes what is left in the directory but the lock, and the directories if nothing is.
    pub(crate) fn remove(&self, keep_log: bool) {
        let (socket, initrd) = (self.socket(), self.join("initrd"));
        let logs = [self.log(), self.earlier_log()];
        let logs = logs.into_iter().filter(|_| !keep_log);
        for path in [socket, initrd].into_iter().chain(logs) {
            let _ = fs::remove_file(path);
        }
        // Last: from here on another keeper may begin.
        let _ = fs::remove_file(self.lock());
        let _ = fs::remove_dir(&self.0);
        let _ = fs::remove_dir(base());
    }
}

/// The parent of all keepers' directories of this user.
fn base() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(runtime) if runtime.is_dir() => runtime.join("crumble-testbed"),
        _ => {
            let user = rustix::process::getuid().as_raw();
            PathBuf::from(format!("/tmp/crumble-testbed-{user}"))
        }
    }
}

/// Makes a directory that only this user may enter. In a place where others may write, one of
/// theirs is not accepted.
fn private(directory: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(file("make the directory", directory))?;
    let found = fs::symlink_metadata(directory).map_err(file("look at", directory))?;
    let ours = found.is_dir()
        && found.uid() == rustix::process::getuid().as_raw()
        && found.mode().trailing_zeros() >= 6;
    if ours {
        return Ok(());
    }
    Err(Error::Runtime(directory.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("d");
        private(&directory).unwrap();
        private(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(private(&directory), Err(Error::Runtime(_))));
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path(), &link).unwrap();
        assert!(matches!(private(&link), Err(Error::Runtime(_))));
    }

    #[test]
    fn every_workspace_has_a_place_of_its_own() {
        let (a, b) = (Place::of(Path::new("/a"), 0), Place::of(Path::new("/b"), 0));
        assert_ne!(a.socket(), b.socket());
        assert_eq!(a.socket(), Place::of(Path::new("/a"), 0).socket());
    }

    #[test]
    fn the_workspace_is_where_the_manifest_is() {
        assert!(workspace().join("Cargo.toml").is_file());
        assert!(workspace().join("crates/testbed").is_dir());
    }
}
