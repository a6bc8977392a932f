//! The process: what it is started with, and its place in its jail.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use device::{Builder, Channel, Confined, Resources};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use wire::net::{DialerConfig, Protocol, Publish};

use crate::config::{self, Config};
use crate::dialer::{Dialer, Links};
use crate::error::Error;
use crate::flows::Published;
use crate::{link, outside, streams};

/// A dialer that is about to work.
#[derive(Debug)]
pub struct Process {
    config: Config,
    links: Links,
}

impl Builder for Process {
    const COMPONENT: &'static str = "dialer";
    type Config = DialerConfig;
    type Error = Error;

    fn prepare(config: DialerConfig, mut resources: Resources) -> Result<Self, Error> {
        let config = Config::try_from(config)?;
        let links = Links::take(&config, &mut resources)?;
        Ok(Self { config, links })
    }

    fn ports(&self) -> Option<Vec<u16>> {
        self.config.ports()
    }

    fn serve(self, _jail: Confined, control: Channel) -> Result<(), Error> {
        Dialer::new(&self.config, self.links)?.run(&control)
    }
}

impl Links {
    /// What a dialer with this configuration needs of what was handed over.
    ///
    /// # Errors
    /// [`Error::Resources`] if something is missing, [`Error::Config`] if something is of another
    /// kind.
    pub fn take(config: &Config, resources: &mut Resources) -> Result<Self, Error> {
        let mut links = Self {
            streams: resources.take(streams::NAME).map_err(Error::Resources)?,
            datagrams: resources.take(link::NAME).map_err(Error::Resources)?,
            listeners: Vec::new(),
            published: Vec::new(),
        };
        for (number, publish) in config.publish().iter().enumerate() {
            let name = format!("publish-{number}");
            let socket = resources.take(&name).map_err(Error::Resources)?;
            links
                .publish(*publish, socket)
                .ok_or(config::Error::PublishedSocket(name))?;
        }
        Ok(links)
    }

    /// Takes a published port's socket; none if it is of another kind.
    fn publish(&mut self, publish: Publish, socket: OwnedFd) -> Option<()> {
        let kind = getsockopt(&socket, sockopt::SockType).ok()?;
        let port = publish.port;
        match (publish.protocol, kind) {
            (Protocol::Tcp, SockType::Stream) => {
                self.listeners.push((TcpListener::from(socket), port));
            }
            (Protocol::Udp, SockType::Datagram) => {
                let socket = UdpSocket::from(socket);
                socket.set_nonblocking(true).ok()?;
                let is_v6 = socket.local_addr().ok()?.is_ipv6();
                let socket = outside::hear_errors(socket.into(), is_v6).ok()?;
                self.published.push(Published {
                    socket,
                    is_v6,
                    port,
                });
            }
            _ => return None,
        }
        Some(())
    }
}
