//! The process: what it is started with on one side, the device on the other.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use device::serve::Server;
use device::{Builder, Channel, Confined, Resources};
use wire::net::Backend as Kind;

use crate::Net;
use crate::backend::Backend;
use crate::config::{self, Config};
use crate::packet::Link;
use crate::pcap::Pcap;
use crate::tap::Tap;
use crate::user::User;

/// Resources: the socket that the front end connects to; those to the dialer, or a TAP device; a
/// file for a record of frames, if there is to be one.
const VHOST_USER: &str = "vhost-user";
const STREAMS: &str = "streams";
const DATAGRAMS: &str = "datagrams";
const TAP: &str = "tap";
const PCAP: &str = "pcap";

/// Why the device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error("the network device cannot be configured")]
    Config(#[from] config::Error),
    /// What it was started with.
    #[error("the network device was started without what it needs")]
    Resources(#[from] handoff::Error),
    /// The operating system.
    #[error("the network device cannot start")]
    System(#[from] io::Error),
    /// vhost-user.
    #[error("the network device cannot be served")]
    Serve(#[from] device::serve::Error),
}

/// A network device that is about to be served.
#[derive(Debug)]
pub struct Process {
    config: Config,
    listener: OwnedFd,
    other_end: OtherEnd,
    pcap: Option<OwnedFd>,
}

/// What a back end is built from.
#[derive(Debug)]
pub enum OtherEnd {
    /// The dialer's sockets.
    User {
        /// For [`wire::net::Ask`] and [`wire::net::Tell`].
        streams: OwnedFd,
        /// For [`wire::net::Datagram`].
        datagrams: OwnedFd,
    },
    /// A TAP device with `IFF_VNET_HDR` and headers of 12 bytes.
    Tap(OwnedFd),
}

impl Net {
    /// A device between the guest and `other_end`, which is of the kind that the configuration
    /// names. It records frames in `pcap`, if there is one.
    ///
    /// # Errors
    /// If something of that is of no use.
    pub fn build(config: Config, other_end: OtherEnd, pcap: Option<OwnedFd>) -> io::Result<Self> {
        let link = Link {
            guest: config.mac(),
            mtu: config.mtu(),
        };
        let backend: Box<dyn Backend> = match (config.backend(), other_end) {
            (Kind::User(addresses), OtherEnd::User { streams, datagrams }) => {
                Box::new(User::new(link, addresses.clone(), streams, datagrams)?)
            }
            (Kind::Tap, OtherEnd::Tap(tap)) => Box::new(Tap::new(tap)?),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let pcap = pcap.map(|file| Pcap::new(File::from(file))).transpose()?;
        Self::new(config, backend, pcap)
    }
}

impl Builder for Process {
    const COMPONENT: &'static str = "dev-net";
    type Config = wire::net::Config;
    type Error = Error;

    fn prepare(config: Self::Config, mut resources: Resources) -> Result<Self, Error> {
        let config: Config = config.try_into()?;
        let other_end = match config.backend() {
            Kind::User(_) => OtherEnd::User {
                streams: resources.take(STREAMS)?,
                datagrams: resources.take(DATAGRAMS)?,
            },
            Kind::Tap => OtherEnd::Tap(resources.take(TAP)?),
        };
        Ok(Self {
            config,
            listener: resources.take(VHOST_USER)?,
            other_end,
            pcap: resources.take(PCAP).ok(),
        })
    }

    fn serve(self, _jail: Confined, control: Channel) -> Result<(), Error> {
        let device = Net::build(self.config, self.other_end, self.pcap)?;
        Ok(Server::new(device, self.listener)?.serve_supervised(control)?)
    }
}
