//! Directories that are kept for guests, by name: `$XDG_DATA_HOME/crumblecracker/volumes/NAME/data`.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    path::PathBuf,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use spec::{Name, Share, Volume};

use crate::{
    Error,
    kept::{cannot, home},
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
        let _lock = lock(name, FlockArg::LockExclusiveNonblock)?;
        fs::remove_dir_all(&path).map_err(cannot("remove", &path))
    }
}

/// The directory as a share, made if it is not there, and what keeps it from being removed.
pub(crate) fn open(volume: &Volume) -> Result<(Share, Flock<File>), Error> {
    let data = all()?.join(volume.name.as_str()).join("data");
    fs::create_dir_all(&data).map_err(cannot("make", &data))?;
    let lock = lock(&volume.name, FlockArg::LockSharedNonblock)?;
    // It may have been removed just before.
    fs::create_dir_all(&data).map_err(cannot("make", &data))?;
    let share = Share {
        host: data,
        guest: volume.guest.clone(),
        read_only: volume.read_only,
    };
    Ok((share, lock))
}

fn lock(name: &Name, how: FlockArg) -> Result<Flock<File>, Error> {
    let path = all()?.join(name.as_str()).join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(cannot("lock", &path))?;
    match Flock::lock(file, how) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::VolumeInUse(name.clone())),
        Err((_, errno)) => Err(cannot("lock", &path)(errno.into())),
    }
}

fn all() -> Result<PathBuf, Error> {
    Ok(home()?.join("volumes"))
}
