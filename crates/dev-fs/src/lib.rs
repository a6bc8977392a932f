//! The file-system device: one directory, served to a guest as virtio-fs by a process of its own.
//!
//! The file system itself is virtiofsd's passthrough. What is ours: where it gets its directory
//! from (an open descriptor, no path), what stands before it ([`guard`]), how numbers of users
//! correspond ([`config`]), and when it ends ([`device`]).

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test fails by panicking"
    )
)]

mod backend;
mod config;
mod device;
mod fatal;
mod guard;
mod journal;
mod kept;
mod listing;
mod replay;
mod restore;
mod table;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread;

use ::device::{Builder, Channel, Resources};
use jailer::{Access, Confined, Grant};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use wire::fs::{Cache, Config, Ids};

use crate::backend::Directory;
use crate::device::End;
use crate::guard::{Guard, Rules};
use crate::journal::Journal;

/// Why the device could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no sense.
    #[error("the file-system device's configuration is wrong: {0}")]
    Config(&'static str),
    /// The directory cannot be entered: it is not one, or may not be searched.
    #[error("cannot enter the shared directory; the user needs execute permission on it")]
    Enter(#[source] nix::Error),
    /// The limit of open files is unknown.
    #[error("cannot read the limit of open files")]
    Limit(#[source] nix::Error),
    /// A resource is missing.
    #[error("the file-system device was not given what it serves with")]
    Resource(#[source] handoff::Error),
    /// The directory could not be taken out of the host's tree.
    #[error("the shared directory cannot be used")]
    Root(#[source] jailer::Error),
    /// The policy does not leave `/proc/self/fd` open.
    #[error("the jail kept no /proc/self/fd, through which files are opened")]
    Proc,
    /// virtiofsd's file system refused to start.
    #[error("cannot serve the shared directory")]
    FileSystem(#[source] io::Error),
    /// What another process has written down cannot be used.
    #[error("cannot use the journal")]
    Journal(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The front end broke the vhost-user protocol.
    #[error("the vhost-user connection failed: {0}")]
    VhostUser(vhost_user_backend::Error),
    /// A queue cannot be served any more: the guest broke it.
    #[error("queue {0} cannot be served any more")]
    Queue(u16, #[source] io::Error),
}

/// The device, as [`::device::run`] makes it. Its resources are `vhost-user`, a listening Unix stream
/// socket with the front end's connection queued, `root`, the directory, and `journal`, what a process
/// before this one has written down.
pub struct Fs {
    config: Config,
    front_end: UnixListener,
    root: OwnedFd,
    journal: OwnedFd,
}

impl Builder for Fs {
    const COMPONENT: &'static str = "dev-fs";
    type Config = Config;
    type Error = Error;

    fn prepare(config: Config, mut resources: Resources) -> Result<Self, Error> {
        config::check(&config)?;
        let front_end = resources.take("vhost-user").map_err(Error::Resource)?;
        let root = resources.take("root").map_err(Error::Resource)?;
        let journal = resources.take("journal").map_err(Error::Resource)?;
        let root = jailer::subtree(root.as_fd(), access(&config)).map_err(Error::Root)?;
        Ok(Self {
            config,
            front_end: front_end.into(),
            root,
            journal,
        })
    }

    fn grants(&self) -> Vec<Grant<'_>> {
        vec![Grant {
            fd: self.root.as_fd(),
            access: access(&self.config),
        }]
    }

    fn serve(self, confined: Confined, control: Channel) -> Result<(), Error> {
        let parts = Parts {
            front_end: self.front_end,
            root: self.root,
            journal: self.journal,
            proc_self_fd: confined.proc_self_fd.ok_or(Error::Proc)?,
        };
        serve(&self.config, parts, move || {
            // The host has nothing to say on it but, by closing it, that the device is to end.
            let _ = control.receive::<()>();
        })
    }
}

/// What the device does to its directory.
fn access(config: &Config) -> Access {
    if config.read_only {
        Access::Read
    } else {
        Access::ReadWrite
    }
}

/// What the device works on.
pub struct Parts {
    /// A listening Unix stream socket with the front end's connection queued.
    pub front_end: UnixListener,
    /// The directory to serve, opened with `O_PATH` or for reading.
    pub root: OwnedFd,
    /// [`wire::fs::JOURNAL_SIZE`] bytes that nobody shortens: zeros, or what a process before
    /// this one has left.
    pub journal: OwnedFd,
    /// `/proc/self/fd` of this process, opened with `O_PATH`.
    pub proc_self_fd: OwnedFd,
}

/// Serves `parts` until the front end is gone, `released` returns, or neither can be waited for.
/// The process is expected to end after it: threads that serve requests may still run.
///
/// # Errors
/// [`Error`]; none if the front end closed its connection or `released` returned.
pub fn serve(
    config: &Config,
    parts: Parts,
    released: impl FnOnce() + Send + 'static,
) -> Result<(), Error> {
    config::check(config)?;
    fatal::install().map_err(|_| Error::Config("one process serves one directory"))?;
    let Directory {
        config: passthrough,
        closed,
    } = Directory::enter(config, parts.root, parts.proc_self_fd)?;
    let rules = Rules {
        closed,
        absent: (config.cache == Cache::Always).then(|| config::timeout(config.cache)),
        owner: match config.ids {
            Ids::Same => None,
            Ids::Single { owner, .. } => Some(owner),
        },
    };
    let journal = Journal::open(parts.journal).map_err(Error::Journal)?;
    let (ended, end) = mpsc::channel();
    if config.read_only {
        let fs = PassthroughFsRo::new(passthrough).map_err(Error::FileSystem)?;
        let fs = Guard::new(fs, rules);
        device::start(fs, &config.tag, journal, parts.front_end, &ended)?;
    } else {
        let fs = PassthroughFs::new(passthrough).map_err(Error::FileSystem)?;
        let fs = Guard::new(fs, rules);
        device::start(fs, &config.tag, journal, parts.front_end, &ended)?;
    }
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            released();
            let _ = ended.send(End::Released);
        })
        .map_err(Error::Thread)?;
    match end.recv() {
        Ok(End::Failed(error)) => Err(error),
        Ok(End::FrontEndGone | End::Released) | Err(mpsc::RecvError) => Ok(()),
    }
}
