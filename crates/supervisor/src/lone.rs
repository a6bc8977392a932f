//! One device without a machine.

use std::os::fd::OwnedFd;

use jailer::Exit;

use crate::{Device, Error, Programs, component::Component, link, machine::system, unit::Unit};

/// A device's processes, started as in a machine, which end when this is dropped: for tests that are
/// the guest themselves, and for other VMMs.
pub struct Lone {
    components: Vec<Component>,
}

impl Lone {
    /// Starts them, waits until they are ready, and returns the VMM's end of the vhost-user
    /// connection as well.
    ///
    /// # Errors
    /// As of a machine that does not start.
    #[doc(hidden)]
    pub fn start(device: Device, programs: &Programs) -> Result<(Self, OwnedFd), Error> {
        let mut links = link::links(1).map_err(system("make a socket for a device"))?;
        let link = links.pop().ok_or(Error::Ended)?;
        let (lone, _) = Self::listen(device, programs, &link.listener)?;
        Ok((lone, link.stream))
    }

    /// Starts them, and waits until they are ready for the one connection that they take from a Unix
    /// stream socket that listens. The device comes back, to be started for the next one.
    ///
    /// # Errors
    /// As of a machine that does not start.
    pub fn listen(
        device: Device,
        programs: &Programs,
        listener: &OwnedFd,
    ) -> Result<(Self, Device), Error> {
        let unit = Unit::new(device, 0);
        let mut components = unit.start(programs, None, listener)?;
        for component in &mut components {
            component.await_ready()?;
        }
        Ok((Self { components }, unit.device))
    }

    /// Waits until the connection is over.
    ///
    /// # Errors
    /// [`Error::Died`] if the device does not end in good order.
    pub fn wait(mut self) -> Result<(), Error> {
        let Some(device) = self.components.first_mut() else {
            return Ok(());
        };
        let exit = device.process.wait(None);
        match exit.map_err(|source| device.spawn_error(source))? {
            None | Some(Exit::Code(0)) => Ok(()),
            Some(exit) => Err(device.died(&exit)),
        }
    }

    /// The end of what each has said, after its name.
    #[doc(hidden)]
    pub fn last_words(&mut self) -> String {
        let words = |component: &mut Component| {
            let log = component.last_words();
            format!("{}:{log}\n", component.name)
        };
        self.components.iter_mut().map(words).collect()
    }
}
