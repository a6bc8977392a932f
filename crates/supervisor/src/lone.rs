//! One device without a machine: for tests that are the guest themselves.

use std::os::fd::OwnedFd;

use crate::{Device, Error, Programs, component::Component, link, machine::system, unit::Unit};

/// A device's processes, started as in a machine, which end when this is dropped.
pub struct Lone {
    components: Vec<Component>,
}

impl Lone {
    /// Starts them, waits until they are ready, and returns the VMM's end of the vhost-user
    /// connection as well.
    ///
    /// # Errors
    /// As of a machine that does not start.
    pub fn start(device: Device, programs: &Programs) -> Result<(Self, OwnedFd), Error> {
        let mut links = link::links(1).map_err(system("make a socket for a device"))?;
        let link = links.pop().ok_or(Error::Ended)?;
        let unit = Unit::new(device, 0);
        let mut components = unit.start(programs, None, &link.listener)?;
        for component in &mut components {
            component.await_ready()?;
        }
        Ok((Self { components }, link.stream))
    }

    /// The end of what each has said, after its name.
    pub fn last_words(&mut self) -> String {
        let words = |component: &mut Component| {
            let log = component.last_words();
            format!("{}:{log}\n", component.name)
        };
        self.components.iter_mut().map(words).collect()
    }
}
