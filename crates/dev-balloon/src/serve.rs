//! The process: what it is started with on one side, the device on the other.

use std::os::fd::OwnedFd;

use device::serve::Server;
use device::{Builder, Channel, Confined, Resources};

use crate::Balloon;

/// The listening socket that the front end connects to.
const VHOST_USER: &str = "vhost-user";

/// Why the device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it was started with.
    #[error("the balloon device was started without what it needs")]
    Resources(#[from] handoff::Error),
    /// vhost-user.
    #[error("the balloon device cannot be served")]
    Serve(#[from] device::serve::Error),
}

/// A balloon device that is about to be served.
#[derive(Debug)]
pub struct Process {
    listener: OwnedFd,
}

impl Builder for Process {
    const COMPONENT: &'static str = "dev-balloon";
    type Config = ();
    type Error = Error;

    fn prepare((): (), mut resources: Resources) -> Result<Self, Error> {
        Ok(Self {
            listener: resources.take(VHOST_USER)?,
        })
    }

    fn serve(self, _jail: Confined, control: Channel) -> Result<(), Error> {
        Ok(Server::new(Balloon, self.listener)?.serve_supervised(control)?)
    }
}
