//! A machine's directory.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crumble::Name;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, file, place};

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What it runs, for people.
    pub image: String,
    /// What `crumble` was given.
    pub arguments: Vec<String>,
    /// Where it was, to which paths in the arguments are relative.
    pub directory: PathBuf,
    /// When it was described.
    #[serde(with = "crate::time")]
    pub created: SystemTime,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What `crumble run` would have exited with.
    pub code: u8,
    /// What was wrong, if not the command.
    pub reason: Option<String>,
    /// When.
    #[serde(with = "crate::time")]
    pub at: SystemTime,
}

/// The directory of a machine.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    name: Name,
}

impl Directory {
    /// A directory for a machine that does not run. One that is there already under this name is its
    /// successor's.
    ///
    /// # Errors
    /// [`Error::Running`], or if the directory cannot be written.
    pub fn create(name: &Name, description: &Description) -> Result<Self, Error> {
        let path = place::place()?.join(name.as_str());
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(file("make", &path)(error));
            }
            _ => {}
        }
        let directory = Self {
            path,
            name: name.clone(),
        };
        let _lock = directory.lock()?;
        directory.forget(&[
            ENDED,
            SOCKET,
            "log",
            "log.1",
            "console",
            "console.1",
            "keeper",
        ])?;
        directory.write(DESCRIPTION, description)?;
        Ok(directory)
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// [`Error::NoMachine`].
    pub fn open(name: &Name) -> Result<Self, Error> {
        let path = place::place()?.join(name.as_str());
        if !path.join(DESCRIPTION).exists() {
            return Err(Error::NoMachine(name.to_string()));
        }
        Ok(Self {
            path,
            name: name.clone(),
        })
    }

    /// All machines of this user, by name.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn all() -> Result<Vec<Self>, Error> {
        let place = place::place()?;
        let entries = fs::read_dir(&place).map_err(file("list", &place))?;
        let mut all: Vec<Self> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                Self::open(&name.to_str()?.parse().ok()?).ok()
            })
            .collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// What it is made of.
    ///
    /// # Errors
    /// If its file is gone or makes no sense.
    pub fn description(&self) -> Result<Description, Error> {
        let description = self.read(DESCRIPTION)?;
        description.ok_or_else(|| Error::NoMachine(self.name.to_string()))
    }

    /// How it ended; none if it runs, has never run, or its keeper was killed.
    ///
    /// # Errors
    /// If its file makes no sense.
    pub fn ended(&self) -> Result<Option<Ended>, Error> {
        self.read(ENDED)
    }

    /// Whether it has ever been started since it was described.
    #[must_use]
    pub fn was_started(&self) -> bool {
        self.socket().exists()
    }

    /// Whether it has a keeper.
    ///
    /// # Errors
    /// If its lock cannot be looked at.
    pub fn is_running(&self) -> Result<bool, Error> {
        match self.lock() {
            Ok(_) => Ok(false),
            Err(Error::Running(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Waits until it has no keeper.
    ///
    /// # Errors
    /// If its lock cannot be waited for.
    pub fn wait(&self) -> Result<(), Error> {
        self.lock_as(FlockArg::LockShared).map(drop)
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`Error::Running`], or if something in it cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        fs::remove_dir_all(&self.path).map_err(file("remove", &self.path))
    }

    /// Its keeper has this as long as it lives.
    pub(crate) fn lock(&self) -> Result<Flock<File>, Error> {
        self.lock_as(FlockArg::LockExclusiveNonblock)
    }

    fn lock_as(&self, how: FlockArg) -> Result<Flock<File>, Error> {
        let path = self.path.join("lock");
        let failed = |source| match source {
            ErrorKind::NotFound => Error::NoMachine(self.name.to_string()),
            kind => file("lock", &path)(kind.into()),
        };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| failed(error.kind()))?;
        let lock = match Flock::lock(lock, how) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(Error::Running(self.name.clone())),
            Err((_, errno)) => return Err(file("lock", &path)(errno.into())),
        };
        // It may have been removed while it was waited for.
        let links = lock.metadata().map_err(file("lock", &path))?.nlink();
        (links > 0)
            .then_some(lock)
            .ok_or_else(|| Error::NoMachine(self.name.to_string()))
    }

    /// Notes how it ended.
    pub(crate) fn end(&self, ended: &Ended) -> Result<(), Error> {
        self.write(ENDED, ended)
    }

    /// It is as if it had never run.
    pub(crate) fn forget_end(&self) -> Result<(), Error> {
        self.forget(&[ENDED, SOCKET])
    }

    fn forget(&self, names: &[&str]) -> Result<(), Error> {
        for name in names {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(file("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where its keeper answers.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// What its command wrote.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// What its guest's console said.
    pub(crate) fn console(&self) -> PathBuf {
        self.path.join("console")
    }

    /// What its keeper had to say when nobody listened any more.
    #[must_use]
    pub fn diagnostics(&self) -> PathBuf {
        self.path.join("keeper")
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.path.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file("read", &path)(error)),
        };
        let content = serde_json::from_slice(&text);
        content.map_err(|source| Error::Content { path, source })
    }

    /// A file is whole or not there.
    fn write(&self, name: &str, content: &impl Serialize) -> Result<(), Error> {
        let path = self.path.join(name);
        replace(&path, &self.path, content).map_err(file("write", &path))
    }
}

const DESCRIPTION: &str = "machine.json";
const ENDED: &str = "end.json";
const SOCKET: &str = "api";

fn replace(path: &Path, folder: &Path, content: &impl Serialize) -> io::Result<()> {
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut new, content)?;
    new.flush()?;
    new.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        Description {
            image: "busybox".to_owned(),
            arguments: vec!["busybox".to_owned(), "true".to_owned()],
            directory: "/".into(),
            created: SystemTime::now(),
        }
    }

    fn directory(folder: &Path) -> Directory {
        Directory {
            path: folder.to_owned(),
            name: "here".parse().unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let directory = directory(folder.path());
        assert!(matches!(directory.description(), Err(Error::NoMachine(_))));
        directory.write(DESCRIPTION, &description()).unwrap();
        assert_eq!(directory.description().unwrap().image, "busybox");
        assert_eq!(directory.ended().unwrap(), None);
        let ended = Ended {
            code: 3,
            reason: None,
            at: SystemTime::now(),
        };
        directory.end(&ended).unwrap();
        assert_eq!(directory.ended().unwrap(), Some(ended));
        directory.forget_end().unwrap();
        assert_eq!(directory.ended().unwrap(), None);
        fs::write(folder.path().join(ENDED), "{}").unwrap();
        assert!(matches!(directory.ended(), Err(Error::Content { .. })));
    }

    #[test]
    fn a_keeper_is_alone_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("here");
        fs::create_dir(&path).unwrap();
        let directory = directory(&path);
        let lock = directory.lock().unwrap();
        assert!(directory.is_running().unwrap());
        assert!(matches!(directory.remove(), Err(Error::Running(_))));
        let waiter = std::thread::spawn({
            let directory = directory.clone();
            move || directory.wait()
        });
        drop(lock);
        waiter.join().unwrap().unwrap();
        assert!(!directory.is_running().unwrap());
        directory.remove().unwrap();
        assert!(matches!(directory.wait(), Err(Error::NoMachine(_))));
    }
}
