//! Where the components' programs are.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use crate::Error;

/// The directory with the components' programs, all of one build.
#[derive(Debug, Clone)]
pub struct Programs(PathBuf);

impl Programs {
    /// The programs in `directory`.
    #[must_use]
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The path of `name`, checked to be an executable file.
    ///
    /// # Errors
    /// [`Error::Program`] if it is not.
    pub fn path(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.0.join(name);
        check(&path).map_err(|source| Error::Program {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    /// `name`, open for execution.
    ///
    /// # Errors
    /// [`Error::Program`] if it does not exist or may not be executed.
    pub fn open(&self, name: &str) -> Result<OwnedFd, Error> {
        let path = self.path(name)?;
        let file = File::open(&path).map_err(|source| Error::Program { path, source })?;
        Ok(file.into())
    }
}

fn check(path: &Path) -> std::io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let programs = Programs::in_directory(directory.path());
        let message = programs.open("crumble-vmm").unwrap_err().to_string();
        assert!(message.contains("crumble-vmm"), "{message}");
    }

    #[test]
    fn a_file_that_is_not_executable_is_no_program() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("crumble-vmm"), "").unwrap();
        let programs = Programs::in_directory(directory.path());
        assert!(programs.open("crumble-vmm").is_err());
    }
}
