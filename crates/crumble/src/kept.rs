//! Machines whose writes are kept, by their names.
//!
//! Each is a directory with a disk for what was written and the name of the image below, which the store
//! keeps under a name of ours: an image that is fetched anew is another one, and what was written belongs
//! to this one.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
};

use image::{Policy, Progress, Pull, Stored};
use nix::fcntl::{Flock, FlockArg};
use spec::{Name, Reference};
use supervisor::Device;
use wire::{agent::Upper, block};

use crate::{Error, Image, Images, lock};

/// The serial number of the disk.
const SERIAL: &str = "kept";

/// How large a disk may grow. It takes what is written, and not more.
const SIZE: u64 = 16 << 30;

/// What makes the file system on it, where it is if not in `PATH`, and the package that has it.
const MKFS: &str = "mkfs.ext4";
const SYSTEM: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// A machine that is kept, and in use by us alone.
pub(crate) struct Kept {
    directory: PathBuf,
    name: Name,
    /// Goes with its last copy, which the machine's thread holds.
    lock: Flock<File>,
}

impl Kept {
    /// The machine of this name, which is made if there is none.
    pub(crate) fn open(name: &Name) -> Result<Self, Error> {
        let directory = all()?.join(name.as_str());
        let lock = lock::directory(&directory, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(cannot("keep", &directory))?;
        Ok(Self {
            directory,
            name: name.clone(),
            lock: lock.ok_or_else(|| Error::KeptInUse(name.clone()))?,
        })
    }

    /// One that is there already.
    pub(crate) fn existing(name: &Name) -> Result<Self, Error> {
        if !all()?.join(name.as_str()).join("disk").exists() {
            return Err(Error::NoKept(name.clone()));
        }
        Self::open(name)
    }

    /// The image below what was written: `wanted`, and after the first time what that was then.
    pub(crate) fn image(
        &self,
        wanted: &Image,
        images: &Images,
        pull: &Pull,
        progress: &dyn Progress,
    ) -> Result<Stored, Error> {
        let path = self.directory.join("image");
        let read = |error| cannot("read", &path)(error);
        match fs::read_to_string(&path) {
            Ok(first) if first == wanted.to_string() => self.own_image(images, &pull.platform),
            Ok(first) => Err(Error::KeptImage {
                name: self.name.clone(),
                first,
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let stored = images.get(wanted, pull, progress)?;
                images.store().tag(stored.name(), &self.reference()?)?;
                fs::write(&path, wanted.to_string()).map_err(cannot("write", &path))?;
                Ok(stored)
            }
            Err(error) => Err(read(error)),
        }
    }

    /// The image that it was made of.
    pub(crate) fn own_image(
        &self,
        images: &Images,
        platform: &image::Platform,
    ) -> Result<Stored, Error> {
        let pull = Pull {
            platform: platform.clone(),
            policy: Policy::Never,
        };
        images.get(&Image::Registry(self.reference()?), &pull, &())
    }

    /// What the store calls its image.
    fn reference(&self) -> Result<Reference, Error> {
        Ok(format!("crumble.internal/kept/{}", self.name).parse()?)
    }

    /// The disk with what was written, made if it is not there, and what the guest makes of it.
    pub(crate) fn disk(&self) -> Result<(Device, Upper), Error> {
        let path = self.directory.join("disk");
        if !path.exists() {
            make_disk(&path)?;
        }
        let open = OpenOptions::new().read(true).write(true).open(&path);
        let file = open.map_err(cannot("open", &path))?;
        let bytes = file.metadata().map_err(cannot("open", &path))?.len();
        let config = block::Config {
            serial: SERIAL.to_owned(),
            read_only: false,
            extents: vec![block::Extent {
                sectors: bytes / block::Config::SECTOR,
            }],
            queues: 1,
        };
        let device = Device::block(&config, vec![OwnedFd::from(file)], "block-kept");
        let serial = SERIAL.to_owned();
        Ok((
            device.map_err(supervisor::Error::from)?,
            Upper::Disk { serial },
        ))
    }

    /// What keeps others from using it meanwhile.
    pub(crate) fn into_lock(self) -> Flock<File> {
        self.lock
    }

    /// Removes it with all that was written.
    pub(crate) fn remove(self, images: &Images) -> Result<(), Error> {
        // It has none if it never came so far.
        let _ = images.store().remove(&self.reference()?.to_string());
        let failed = cannot("remove", &self.directory);
        lock::remove(&self.directory, &self.lock).map_err(failed)
    }
}

fn all() -> Result<PathBuf, Error> {
    Ok(home()?.join("machines"))
}

/// Where all is that outlives machines: `$XDG_DATA_HOME/crumblecracker`, or in `~/.local/share`.
pub(crate) fn home() -> Result<PathBuf, Error> {
    let absolute = |name| {
        let path = env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("crumblecracker"))
        .ok_or(Error::NoHome)
}

/// A file with an empty ext4. It gets its name when it is whole.
fn make_disk(path: &Path) -> Result<(), Error> {
    let failed = cannot("make", path);
    let unfinished = path.with_extension("unfinished");
    let made = File::create(&unfinished).and_then(|file| file.set_len(SIZE));
    made.map_err(cannot("make", path))?;
    let search = env::var("PATH").unwrap_or_default();
    let output = Command::new(MKFS)
        .args([
            "-q",
            "-F",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1",
        ])
        .arg(&unfinished)
        .env("PATH", format!("{search}:{SYSTEM}"))
        .output();
    match output {
        Ok(output) if output.status.success() => fs::rename(&unfinished, path).map_err(failed),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(failed(io::Error::other(words.trim().to_owned())))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NoMkfs),
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn cannot(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Kept {
        action,
        path,
        source,
    }
}
