//! The process: the control channel on one side, the device on the other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use device::serve::{Server, Stopper};
use device::{Builder, Channel, Confined, Resources};
use wire::vsock::{Event, Request};

use crate::config::{self, Config};
use crate::{Inbox, Vsock};

/// The listening socket that the front end connects to.
const VHOST_USER: &str = "vhost-user";

/// Connections of the guest that may wait for the supervisor; further ones are refused.
const MAX_ANNOUNCED: usize = 64;

/// Why the device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error("the vsock device cannot be configured")]
    Config(#[from] config::Error),
    /// What it was started with.
    #[error("the vsock device was started without what it needs")]
    Resources(#[from] handoff::Error),
    /// The operating system.
    #[error("the vsock device cannot start")]
    System(#[from] io::Error),
    /// vhost-user.
    #[error("the vsock device cannot be served")]
    Serve(#[from] device::serve::Error),
}

/// A vsock device that is about to be served.
#[derive(Debug)]
pub struct Process {
    config: Config,
    listener: OwnedFd,
}

impl Builder for Process {
    const COMPONENT: &'static str = "dev-vsock";
    type Config = wire::vsock::Config;
    type Error = Error;

    fn prepare(config: Self::Config, mut resources: Resources) -> Result<Self, Error> {
        Ok(Self {
            config: config.try_into()?,
            listener: resources.take(VHOST_USER)?,
        })
    }

    fn serve(self, _jail: Confined, control: Channel) -> Result<(), Error> {
        let inbox = Arc::new(Inbox::new()?);
        let (sender, accepted) = sync_channel(MAX_ANNOUNCED);
        let device = Vsock::new(self.config, Arc::clone(&inbox), sender)?;
        let server = Server::new(device, self.listener)?;
        let stopper = server.stopper();
        let events = control.try_clone()?;
        // Threads of their own, so that a supervisor that is slow delays no traffic.
        thread::Builder::new()
            .name("accepted".into())
            .spawn(move || announce(&events, &accepted))?;
        thread::Builder::new()
            .name("control".into())
            .spawn(move || obey(&control, &inbox, &stopper))?;
        Ok(server.serve()?)
    }
}

/// Passes the guest's connections to the supervisor until either is gone.
fn announce(events: &Channel, accepted: &Receiver<(u32, UnixStream)>) {
    for (port, stream) in accepted {
        if let Err(error) = events.send(&Event::Accepted { port }, &[stream.as_fd()]) {
            device::report(&format!("a connection to port {port} is lost: {error}"));
        }
    }
}

/// Takes the supervisor's requests; without a supervisor there is no device.
fn obey(control: &Channel, inbox: &Inbox, stopper: &Stopper) {
    loop {
        match control.receive::<Request>() {
            Ok(Some((Request::Connect { port }, fds))) => {
                for stream in fds.into_iter().take(1) {
                    inbox.connect(port, stream.into());
                }
            }
            Ok(None) => break,
            Err(error) => {
                device::report(&format!("the supervisor sent nonsense: {error}"));
                break;
            }
        }
    }
    stopper.stop();
}
