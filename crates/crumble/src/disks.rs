//! Files of the host as disks of the guest.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use spec::Disk;
use supervisor::Device;
use wire::block;

use crate::Error;

/// The device that serves a disk, the guest's number `index`, and the lock on its file: one machine at a
/// time may write to it, or any number read it.
pub(crate) fn open(disk: &Disk, index: usize) -> Result<(Device, Flock<File>), Error> {
    let failed = |source| Error::Open {
        path: disk.path.clone(),
        source,
    };
    let mut options = OpenOptions::new();
    let file = options.read(true).write(!disk.read_only).open(&disk.path);
    let file = file.map_err(failed)?;
    let sectors = sectors(&file, &disk.path)?;
    let lock = match disk.read_only {
        true => FlockArg::LockSharedNonblock,
        false => FlockArg::LockExclusiveNonblock,
    };
    let file = match Flock::lock(file, lock) {
        Ok(file) => file,
        Err((_, Errno::EWOULDBLOCK)) => return Err(Error::DiskInUse(disk.path.clone())),
        Err((_, errno)) => return Err(failed(errno.into())),
    };
    let config = block::Config {
        serial: format!("disk{index}"),
        read_only: disk.read_only,
        extents: vec![block::Extent { sectors }],
        queues: 1,
    };
    let served = file.try_clone().map_err(failed)?;
    let device = Device::block(&config, vec![served.into()], &format!("disk{index}"));
    Ok((device.map_err(supervisor::Error::from)?, file))
}

fn sectors(file: &File, path: &Path) -> Result<u64, Error> {
    let wrong = |reason| Error::Disk {
        path: path.to_owned(),
        reason,
    };
    let metadata = file.metadata().map_err(|source: io::Error| Error::Open {
        path: path.to_owned(),
        source,
    })?;
    if !metadata.is_file() {
        return Err(wrong("it is no regular file"));
    }
    let bytes = metadata.len();
    if bytes == 0 {
        return Err(wrong("it is empty; `truncate -s 1G FILE` makes room"));
    }
    if !bytes.is_multiple_of(block::Config::SECTOR) {
        return Err(wrong("its length is no multiple of 512 bytes"));
    }
    Ok(bytes / block::Config::SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &Path, read_only: bool) -> Disk {
        Disk {
            path: path.to_owned(),
            read_only,
        }
    }

    #[test]
    fn one_machine_writes_or_many_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1024).unwrap();
        let [write, read] = [false, true].map(|read_only| disk(file.path(), read_only));
        let first = open(&read, 0).unwrap();
        let second = open(&read, 1).unwrap();
        let message = open(&write, 0).map(drop).unwrap_err().to_string();
        assert!(message.contains("in use"), "{message}");
        drop((first, second));
        let writer = open(&write, 0).unwrap();
        open(&read, 1).map(drop).unwrap_err();
        drop(writer);
        open(&write, 0).unwrap();
    }

    #[test]
    fn what_is_no_disk_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        for (length, why) in [(0, "truncate"), (511, "512"), (513, "512")] {
            File::create(&path).unwrap().set_len(length).unwrap();
            let message = open(&disk(&path, false), 0).map(drop).unwrap_err();
            let message = message.to_string();
            assert!(
                message.contains(why) && message.contains("disk"),
                "{message}"
            );
        }
        let message = open(&disk(directory.path(), true), 0)
            .map(drop)
            .unwrap_err();
        assert!(message.to_string().contains("regular"), "{message}");
        open(&disk(&directory.path().join("none"), true), 0)
            .map(drop)
            .unwrap_err();
    }
}
