//! The process: the control channel on one side, the device on the other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use device::serve::{Server, Stopper};
use device::{Builder, Channel, Confined, Resources};
use wire::vsock::{Event, Request, Stream};

use crate::config::{self, Config};
use crate::{Accepted, Inbox, Legacy, Vsock};

/// Resources: the listening socket that the front end connects to, and what the process before this
/// one wrote down.
const VHOST_USER: &str = "vhost-user";
const JOURNAL: &str = "journal";

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
    /// The supervisor.
    #[error("the supervisor wants a connection before it said which ones there are")]
    Early,
    /// vhost-user.
    #[error("the vsock device cannot be served")]
    Serve(#[from] device::serve::Error),
}

/// A vsock device that is about to be served.
#[derive(Debug)]
pub struct Process {
    config: Config,
    listener: OwnedFd,
    journal: OwnedFd,
}

impl Builder for Process {
    const COMPONENT: &'static str = "dev-vsock";
    type Config = wire::vsock::Config;
    type Error = Error;

    fn prepare(config: Self::Config, mut resources: Resources) -> Result<Self, Error> {
        Ok(Self {
            config: config.try_into()?,
            listener: resources.take(VHOST_USER)?,
            journal: resources.take(JOURNAL)?,
        })
    }

    fn serve(self, _jail: Confined, control: Channel) -> Result<(), Error> {
        let inbox = Arc::new(Inbox::new()?);
        let (sender, accepted) = sync_channel(MAX_ANNOUNCED);
        let Some(streams) = take_over(&control)? else {
            return Ok(());
        };
        let legacy = Legacy {
            journal: self.journal,
            streams,
        };
        let device = Vsock::new(self.config, Arc::clone(&inbox), sender, legacy)?;
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

/// Takes the streams of the process before this one; `None` if the supervisor is gone.
fn take_over(control: &Channel) -> Result<Option<Vec<(Stream, UnixStream)>>, Error> {
    let mut streams = Vec::new();
    loop {
        match control.receive::<Request>()? {
            Some((Request::Resume(kept), fds)) => {
                streams.extend(kept.into_iter().zip(fds.into_iter().map(UnixStream::from)));
            }
            Some((Request::Begin, _)) => return Ok(Some(streams)),
            Some((Request::Connect(_), _)) => return Err(Error::Early),
            None => return Ok(None),
        }
    }
}

/// Passes the guest's connections to the supervisor until either is gone.
fn announce(events: &Channel, accepted: &Receiver<Accepted>) {
    for Accepted {
        stream,
        theirs,
        ours,
    } in accepted
    {
        let ends = [theirs.as_fd(), ours.as_fd()];
        if let Err(error) = events.send(&Event::Accepted(stream), &ends) {
            let port = stream.port;
            device::report(&format!("a connection to port {port} is lost: {error}"));
        }
    }
}

/// Takes the supervisor's requests; without a supervisor there is no device.
fn obey(control: &Channel, inbox: &Inbox, stopper: &Stopper) {
    loop {
        match control.receive::<Request>() {
            Ok(Some((Request::Connect(wanted), fds))) => {
                for stream in fds.into_iter().take(1) {
                    inbox.connect(wanted, stream.into());
                }
            }
            Ok(Some((Request::Resume(_) | Request::Begin, _))) => {
                device::report("the supervisor begins again, which is nonsense");
                break;
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
