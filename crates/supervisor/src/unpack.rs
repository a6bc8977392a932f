//! The process that unpacks one layer of an image, from its start to its end. It belongs to no
//! machine.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wire::unpack::{Config, Outcome, Summary};

use crate::{
    Error, Programs,
    component::{Component, Start},
    launch::{named, pair},
    machine::system,
    plan::Program,
    tail::printable,
};

/// Names the policy, and after `crumble-` the program.
const UNPACK: &str = "unpack";

/// Unpacks a layer, and waits for it. `layer` is open for reading at its beginning, `image` is an
/// empty file that is open for reading and writing. If the calling thread ends the process ends.
///
/// What a summary says comes from a process that has read a stranger's bytes: so does the image.
///
/// # Errors
/// [`Error::Layer`] with what is wrong with the layer; [`Error::Died`] if the process ended without
/// a word, or was killed; otherwise it did not start. The image is of no use then.
pub fn run(
    programs: &Programs,
    config: &Config,
    layer: OwnedFd,
    image: OwnedFd,
) -> Result<Summary, Error> {
    Unpack::start(programs, config, &layer, &image)?.wait()
}

/// A process that unpacks a layer. Dropping it kills it.
pub struct Unpack(Component);

impl Unpack {
    /// Starts it, as [`run`] does, and waits until it is in its jail.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(
        programs: &Programs,
        config: &Config,
        layer: &OwnedFd,
        image: &OwnedFd,
    ) -> Result<Self, Error> {
        let start = Start {
            name: UNPACK,
            program: &Program::Component(UNPACK),
            config: wire::encode(config)?,
            resources: vec![
                ("layer".to_owned(), layer.as_fd()),
                ("image".to_owned(), image.as_fd()),
            ],
            channel: pair(UNPACK)?,
        };
        let mut component = Component::start(programs, None, start)?;
        component.await_ready()?;
        Ok(Self(component))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.process.pid()
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// As of [`run`].
    pub fn wait(mut self) -> Result<Summary, Error> {
        let component = &mut self.0;
        while !has_spoken(component)? {
            component.read_log();
        }
        // Nothing more is there if it died: the end of the channel is read as none.
        match component.channel.receive::<Outcome>() {
            Ok(Some((Outcome::Done(summary), _))) => Ok(summary),
            Ok(Some((Outcome::Failed(why), _))) => Err(Error::Layer(printable(why.as_bytes()))),
            Ok(None) => {
                let exit = component.process.wait(None);
                let exit = exit.map_err(|source| component.spawn_error(source))?;
                Err(exit.map_or(Error::Ended, |exit| component.died(&exit)))
            }
            Err(source) => Err(named(UNPACK, source)),
        }
    }
}

/// Waits until there is something in the log, or an outcome, or its end: whether it is one of the
/// latter.
fn has_spoken(component: &Component) -> Result<bool, Error> {
    let mut fds = vec![PollFd::new(component.channel.as_fd(), PollFlags::POLLIN)];
    let log = component.log();
    fds.extend(log.map(|log| PollFd::new(log, PollFlags::POLLIN)));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(system("wait for a layer to be unpacked")(errno.into())),
    }
    let channel = fds.first().and_then(PollFd::any);
    Ok(channel.unwrap_or(false))
}
