//! Devices of ours for other VMMs: each in its jail, behind a socket with a name.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::{
        fd::OwnedFd,
        unix::{fs::FileTypeExt, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::Flock;
use spec::{Disk, Image, MachineSpec, Network, Publish};
use supervisor::{Device, Lone, Programs};
use wire::fs::Cache;

use crate::{Error, assemble, disks, network};

/// What a device serves.
#[derive(Debug, Clone)]
pub enum Served {
    /// A directory, as a file system with a tag.
    Directory {
        /// Where it is.
        path: PathBuf,
        /// What the guest calls it. A VMM may have its own opinion.
        tag: String,
        /// The guest may not write.
        read_only: bool,
    },
    /// A file, as a disk.
    Disk(Disk),
    /// A network, and ports of the host that lead to its guest, which is to take its address by DHCP.
    Network(Network, Vec<Publish>),
}

/// A device that is served on a socket. Dropping it removes the socket.
pub struct Server {
    device: Option<Device>,
    listener: OwnedFd,
    path: PathBuf,
    programs: Programs,
    /// As long as the disk is served.
    #[expect(dead_code, reason = "its life is the lock's")]
    lock: Option<Flock<File>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Opens what is served, and listens. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// What cannot be opened, or that the socket's name is taken.
    pub fn bind(served: Served, socket: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = socket.into();
        let (device, lock) = device(served)?;
        let listener = listen(&path)?;
        Ok(Self {
            device: Some(device),
            listener,
            path,
            programs: Programs::in_directory(assemble::own_directory()?),
            lock,
        })
    }

    /// The directory with `crumble-dev-fs` and its like; without, that of the running program.
    #[must_use]
    pub fn programs(mut self, directory: impl Into<PathBuf>) -> Self {
        self.programs = Programs::in_directory(directory.into());
        self
    }

    /// Serves one VMM, from its connection to its end, with a process that serves no other.
    ///
    /// # Errors
    /// If the process cannot be started, or does not end in good order; the next may.
    pub fn serve_one(&mut self) -> Result<(), Error> {
        let device = self.device.take().ok_or(supervisor::Error::Ended)?;
        let (lone, device) = Lone::listen(device, &self.programs, &self.listener)?;
        self.device = Some(device);
        Ok(lone.wait()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}

fn device(served: Served) -> Result<(Device, Option<Flock<File>>), Error> {
    match served {
        Served::Directory {
            path,
            tag,
            read_only,
        } => {
            let device = assemble::fs_device(&tag, &path, read_only, Cache::Auto)?;
            Ok((device, None))
        }
        Served::Disk(disk) => {
            let (device, lock) = disks::open(&disk, 0)?;
            Ok((device, Some(lock)))
        }
        Served::Network(network, publish) => {
            let mut spec = MachineSpec::new(Image::Host);
            (spec.network, spec.publish) = (network, publish);
            let device = network::connect(&spec, None)?.device;
            Ok((device.ok_or(Error::NothingToServe)?, None))
        }
    }
}

fn listen(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Open {
        path: path.to_owned(),
        source,
    };
    let is_dead = || {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        is_socket && std::os::unix::net::UnixStream::connect(path).is_err()
    };
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_dead() => {
            fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    Ok(listener.map_err(failed)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_the_dead_is_replaced_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = listen(&path).unwrap();
        listen(&path).unwrap_err();
        drop(first);
        listen(&path).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        listen(&file).unwrap_err();
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }
}
