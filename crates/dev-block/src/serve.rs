//! The process: what it is started with on one side, the device on the other.

use std::io;
use std::os::fd::OwnedFd;

use device::serve::Server;
use device::{Builder, Channel, Confined, Resources};

use crate::Block;
use crate::backend::{Disk, FileError};
use crate::config::{self, Config};

/// The listening socket that the front end connects to.
const VHOST_USER: &str = "vhost-user";

/// Why the device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error("the block device cannot be configured")]
    Config(#[from] config::Error),
    /// What it was started with.
    #[error("the block device was started without what it needs")]
    Resources(#[from] handoff::Error),
    /// One of its files.
    #[error("the block device cannot use a file")]
    File(#[from] FileError),
    /// The operating system.
    #[error("the block device cannot start")]
    System(#[from] io::Error),
    /// vhost-user.
    #[error("the block device cannot be served")]
    Serve(#[from] device::serve::Error),
}

/// A block device that is about to be served.
#[derive(Debug)]
pub struct Process {
    config: Config,
    listener: OwnedFd,
    disk: Disk,
}

impl Builder for Process {
    const COMPONENT: &'static str = "dev-block";
    type Config = wire::block::Config;
    type Error = Error;

    fn prepare(config: Self::Config, mut resources: Resources) -> Result<Self, Error> {
        let config: Config = config.try_into()?;
        let names = (0..config.extents().len()).map(wire::block::Config::resource);
        let files = names
            .map(|name| resources.take(&name))
            .collect::<handoff::Result<_>>()?;
        Ok(Self {
            listener: resources.take(VHOST_USER)?,
            disk: Disk::new(&config, files)?,
            config,
        })
    }

    fn serve(self, _jail: Confined, control: Channel) -> Result<(), Error> {
        let device = Block::new(self.config, self.disk);
        Ok(Server::new(device, self.listener)?.serve_supervised(control)?)
    }
}
