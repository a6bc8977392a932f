//! The process: what it is started with on one side, the device on the other.

use std::io;
use std::os::fd::OwnedFd;

use device::serve::Server;
use device::{Builder, Channel, Confined, Resources};
use wire::console::Config;

use crate::{Console, Port};

/// The listening socket that the front end connects to.
const VHOST_USER: &str = "vhost-user";

/// Why the device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// [`Config::ports`].
    #[error(
        "a console device has 1 to {most} ports, not {0}; leave some out",
        most = Config::MOST_PORTS
    )]
    Ports(usize),
    /// A name.
    #[error("the name of port {0} is longer than {longest} bytes", longest = Config::LONGEST_NAME)]
    Name(usize),
    /// What it was started with.
    #[error("the console device was started without what it needs")]
    Resources(#[from] handoff::Error),
    /// The operating system.
    #[error("the console device cannot start")]
    System(#[from] io::Error),
    /// vhost-user.
    #[error("the console device cannot be served")]
    Serve(#[from] device::serve::Error),
}

/// A console device that is about to be served.
#[derive(Debug)]
pub struct Process {
    listener: OwnedFd,
    ports: Vec<Port>,
}

impl Builder for Process {
    const COMPONENT: &'static str = "dev-console";
    type Config = Config;
    type Error = Error;

    fn prepare(config: Config, mut resources: Resources) -> Result<Self, Error> {
        if !(1..=Config::MOST_PORTS).contains(&config.ports.len()) {
            return Err(Error::Ports(config.ports.len()));
        }
        let ports = config.ports.into_iter().enumerate().map(|(index, name)| {
            if name.len() > Config::LONGEST_NAME {
                return Err(Error::Name(index));
            }
            Ok(Port::new(name, resources.take(&Config::resource(index))?))
        });
        let ports = ports.collect::<Result<_, Error>>()?;
        Ok(Self {
            listener: resources.take(VHOST_USER)?,
            ports,
        })
    }

    fn serve(self, _jail: Confined, control: Channel) -> Result<(), Error> {
        let device = Console::new(self.ports);
        Ok(Server::new(device, self.listener)?.serve_supervised(control)?)
    }
}
