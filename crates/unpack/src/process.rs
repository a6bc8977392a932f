//! The process: what it is started with, and its place in its jail.

use std::fs::File;

use device::{Builder, Channel, Confined, Resources};
use wire::unpack::{Config, Outcome};

use crate::{Error, unpack};

/// Two files, and what to do with them.
#[derive(Debug)]
pub struct Process {
    config: Config,
    layer: File,
    image: File,
}

impl Builder for Process {
    const COMPONENT: &'static str = "unpack";
    type Config = Config;
    type Error = Error;

    fn prepare(config: Config, mut resources: Resources) -> Result<Self, Error> {
        let mut take = |name| {
            let file = resources.take(name).map_err(Error::Resources);
            file.map(File::from)
        };
        Ok(Self {
            config,
            layer: take("layer")?,
            image: take("image")?,
        })
    }

    fn serve(self, _jail: Confined, control: Channel) -> Result<(), Error> {
        let done = unpack(&self.config, self.layer, self.image);
        let outcome = match &done {
            Ok(summary) => Outcome::Done(*summary),
            Err(error) => Outcome::Failed(wire::chain(error)),
        };
        control.send(&outcome, &[]).map_err(Error::Control)?;
        done.map(drop)
    }
}
