//! Another process in the place of a device's that died.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use wire::vmm::Request;

use crate::{
    Error, link,
    machine::system,
    unit::{Loss, Unit},
    watch::Family,
};

/// How long a process may live whose connection the VMM has closed.
const END_WITHIN: Duration = Duration::from_millis(300);

impl Family {
    /// Which device the component belongs to.
    fn unit_of(&self, component: usize) -> Option<usize> {
        let mut units = self.units.iter();
        units.position(|unit| unit.members().contains(&component))
    }

    /// Puts others in the place of the processes of the device that this component, which has ended,
    /// is of. `false` if that cannot be made good.
    pub(crate) fn replace(&mut self, component: usize) -> Result<bool, Error> {
        // Whatever ends after the VMM ends because of it.
        let vmm = self.components.first();
        let running = vmm.is_some_and(|vmm| !vmm.gone && vmm.channel_open);
        let Some(index) = self.unit_of(component).filter(|_| running) else {
            return Ok(false);
        };
        let unit = self.units.get(index);
        if !unit.is_some_and(|unit| unit.device.description.replaceable) || !self.goes_on(index) {
            return Ok(false);
        }
        self.kill_members(index)?;
        loop {
            match self.start_members(index) {
                // One that ends before it has heard what it is to do is one more death.
                Err(Error::Channel { .. }) if self.goes_on(index) => {}
                started => return started.map(|()| true),
            }
        }
    }

    /// A process of the device has died: whether there is to be a next life.
    fn goes_on(&mut self, index: usize) -> bool {
        let unit = self.units.get_mut(index);
        unit.is_some_and(|unit| unit.mourn(Instant::now()))
    }

    /// Before others are started: two processes must not be at the same rings.
    fn kill_members(&mut self, index: usize) -> Result<(), Error> {
        let members = self.units.get(index).map(Unit::members).unwrap_or_default();
        for component in self.components.get_mut(members).into_iter().flatten() {
            let ended = component.process.kill();
            let ended = ended.and_then(|()| component.process.wait(None));
            ended.map_err(|source| component.spawn_error(source))?;
            component.gone = true;
        }
        Ok(())
    }

    fn start_members(&mut self, index: usize) -> Result<(), Error> {
        let Self {
            units,
            components,
            programs,
            group,
            vsock,
            streams,
            ..
        } = self;
        let Some(unit) = units.get_mut(index) else {
            return Ok(());
        };
        unit.loss = None;
        let links = link::links(1).map_err(system("make a socket for a device"))?;
        let Some(link) = links.into_iter().next() else {
            return Ok(());
        };
        let started = unit.start(programs, group.as_ref(), &link.listener)?;
        for (at, component) in unit.members().zip(started) {
            if *vsock == Some(at) {
                streams.hand_over(component.copy_channel()?)?;
            }
            if let Some(place) = components.get_mut(at) {
                *place = component;
            }
        }
        let request = Request::Replace {
            name: unit.device.description.name.clone(),
            life: unit.life,
        };
        if let Some(vmm) = components.first() {
            // One that does not listen has ended or is about to, and the machine with it.
            let _ = vmm.channel.send(&request, &[link.stream.as_fd()]);
        }
        self.tell_processes();
        Ok(())
    }

    /// The VMM has closed the connection to a device's process, which ends now or is ended.
    pub(crate) fn device_lost(&mut self, name: &str, life: u32, reason: String) {
        let unit = self
            .units
            .iter_mut()
            .find(|unit| unit.device.description.name == name);
        // What is said of an earlier one is no news.
        if let Some(unit) = unit.filter(|unit| unit.life == life) {
            let kill_at = Instant::now().checked_add(END_WITHIN);
            unit.loss = Some(Loss { reason, kill_at });
        }
    }

    /// Kills processes of devices that the VMM has given up; their ends are seen as any other.
    pub(crate) fn kill_lost(&mut self) {
        let now = Instant::now();
        for unit in &mut self.units {
            let due = |at: &mut Instant| *at <= now;
            let lost = unit.loss.as_mut();
            if lost.and_then(|loss| loss.kill_at.take_if(due)).is_some()
                && let Some(component) = self.components.get(unit.first())
            {
                // It is refused for a process that has ended.
                let _ = component.process.kill();
            }
        }
    }

    /// Why the VMM has given up the device that this component serves, if it has.
    pub(crate) fn loss_of(&mut self, component: usize) -> Option<Error> {
        let index = self.unit_of(component)?;
        let unit = self.units.get_mut(index)?;
        let log = self.components.get_mut(component)?.last_words();
        Some(Error::DeviceFailed {
            name: unit.device.description.name.clone(),
            reason: unit.loss.take()?.reason,
            log,
        })
    }

    /// Whether another may take the place of this component.
    pub(crate) fn is_replaceable(&self, component: usize) -> bool {
        let mut units = self.units.iter();
        units.any(|unit| unit.first() == component && unit.device.description.replaceable)
    }

    /// How many had the component's place before it.
    pub(crate) fn predecessors(&self, component: usize) -> u32 {
        let unit = self.unit_of(component);
        let unit = unit.and_then(|index| self.units.get(index));
        unit.map_or(0, |unit| unit.life)
    }

    /// Whether the component took the place of another, so that its failure to start is one more
    /// death.
    pub(crate) fn is_successor(&self, component: usize) -> bool {
        self.predecessors(component) > 0
    }
}
