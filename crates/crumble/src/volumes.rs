//! Directories that are kept for guests, by name: `$XDG_DATA_HOME/crumblecracker/volumes/NAME/data`.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::PathBuf,
};

use nix::fcntl::{Flock, FlockArg};
use spec::{Name, Share, Volume};

use crate::{
    Error,
    kept::{cannot, home},
    lock,
};

/// The directories that are kept for guests.
#[derive(Debug)]
pub struct Volumes(());

impl Volumes {
    /// Their names.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn names() -> Result<Vec<Name>, Error> {
        let all = all()?;
        let entries = match fs::read_dir(&all) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(cannot("list", &all))?,
        };
        let named = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        let mut names: Vec<Name> = entries.filter_map(|entry| named(entry.ok()?)).collect();
        names.sort();
        Ok(names)
    }

    /// Removes one with all that is in it.
    ///
    /// # Errors
    /// [`Error::NoVolume`], [`Error::VolumeInUse`] if a machine has it, or if something in it cannot be
    /// removed.
    pub fn remove(name: &Name) -> Result<(), Error> {
        let path = all()?.join(name.as_str());
        if !path.exists() {
            return Err(Error::NoVolume(name.clone()));
        }
        let lock = lock(name, FlockArg::LockExclusiveNonblock)?;
        lock::remove(&path, &lock).map_err(cannot("remove", &path))
    }
}

/// The directory as a share, made if it is not there, and what keeps it from being removed.
pub(crate) fn open(volume: &Volume) -> Result<(Share, Flock<File>), Error> {
    let data = all()?.join(volume.name.as_str()).join("data");
    let lock = lock(&volume.name, FlockArg::LockSharedNonblock)?;
    fs::create_dir_all(&data).map_err(cannot("make", &data))?;
    let share = Share {
        host: data,
        guest: volume.guest.clone(),
        read_only: volume.read_only,
    };
    Ok((share, lock))
}

fn lock(name: &Name, how: FlockArg) -> Result<Flock<File>, Error> {
    let path = all()?.join(name.as_str());
    let lock = lock::directory(&path, how).map_err(cannot("lock", &path))?;
    lock.ok_or_else(|| Error::VolumeInUse(name.clone()))
}

fn all() -> Result<PathBuf, Error> {
    Ok(home()?.join("volumes"))
}
