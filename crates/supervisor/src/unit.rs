//! The processes of one device: its own, and the dialer that makes its sockets.

use std::{
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use handoff::Channel;
use jailer::Group;

use crate::{
    Device, Dialer, Error, Programs,
    component::{Component, Start},
    launch::{named, pair},
    plan::Program,
};

/// What joins a network device and its dialer: a pair of sockets each, which keep the boundaries of
/// messages (`wire::net`).
const JOINTS: [&str; 2] = ["streams", "datagrams"];

/// What people call the dialer.
pub(crate) const DIALER: &str = "dialer";
pub(crate) const DIALER_PROGRAM: Program = Program::Component(DIALER);

/// So many deaths of one device within [`STORM_WITHIN`] are borne. A device that dies at every
/// packet would otherwise be started for ever.
const DEATHS_BORNE: usize = 5;

const STORM_WITHIN: Duration = Duration::from_secs(10);

/// A device and its processes among a machine's components. They are replaced together: neither knows how far the other had come.
pub(crate) struct Unit {
    pub(crate) device: Device,
    /// Which component is the device's own process. The dialer, if there is one, is the next.
    first: usize,
    /// Which of the device's processes it is, as the VMM counts them.
    pub(crate) life: u32,
    /// The last ones.
    deaths: Vec<Instant>,
    pub(crate) loss: Option<Loss>,
}

/// The VMM has given up the connection to a device's process, which therefore ends.
pub(crate) struct Loss {
    /// What the process did.
    pub(crate) reason: String,
    /// When it is killed if it has not ended by itself.
    pub(crate) kill_at: Option<Instant>,
}

impl Unit {
    pub(crate) const fn new(device: Device, first: usize) -> Self {
        Self {
            device,
            first,
            life: 0,
            deaths: Vec::new(),
            loss: None,
        }
    }

    /// Which component is the device's own process.
    pub(crate) const fn first(&self) -> usize {
        self.first
    }

    /// The dialer, and which component it is.
    pub(crate) fn dialer(&mut self) -> Option<(&mut Dialer, usize)> {
        let index = self.first.checked_add(1)?;
        Some((self.device.dialer.as_mut()?, index))
    }

    /// Which components are its own.
    pub(crate) fn members(&self) -> Range<usize> {
        let count = 1_usize.saturating_add(usize::from(self.device.dialer.is_some()));
        self.first..self.first.saturating_add(count)
    }

    /// One of its processes has died. `true` if there is to be a next life.
    pub(crate) fn mourn(&mut self, now: Instant) -> bool {
        let recent = |death: &Instant| now.saturating_duration_since(*death) < STORM_WITHIN;
        self.deaths.retain(recent);
        self.deaths.push(now);
        let goes_on = self.deaths.len() <= DEATHS_BORNE;
        self.life = self.life.saturating_add(u32::from(goes_on));
        goes_on
    }

    /// Starts its processes, in the order of the components. The device takes its front end's
    /// connection from `listener`.
    pub(crate) fn start(
        &self,
        programs: &Programs,
        group: Option<&Group>,
        listener: &OwnedFd,
    ) -> Result<Vec<Component>, Error> {
        let device = &self.device;
        let joints = match device.dialer {
            Some(_) => JOINTS.into_iter().map(joint).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let listener_name = device.program.listener().to_owned();
        let mut resources = vec![(listener_name, listener.as_fd())];
        let own = device.resources.iter();
        resources.extend(own.map(|(name, fd)| (name.clone(), fd.as_fd())));
        let ends = joints
            .iter()
            .map(|joint: &Joint| (joint.name(), joint.device.as_fd()));
        resources.extend(ends);
        let own = Start {
            name: &device.description.name,
            program: &device.program,
            config: device.config.clone(),
            resources,
            channel: pair(&device.description.name)?,
        };
        let mut started = vec![Component::start(programs, group, own)?];
        if let Some(dialer) = &device.dialer {
            started.push(start_dialer(programs, group, dialer, &joints)?);
        }
        Ok(started)
    }
}

fn start_dialer(
    programs: &Programs,
    group: Option<&Group>,
    dialer: &Dialer,
    joints: &[Joint],
) -> Result<Component, Error> {
    let published = dialer.published.iter().enumerate();
    let published = published.map(|(index, fd)| (format!("publish-{index}"), fd.as_fd()));
    let joints = joints
        .iter()
        .map(|joint| (joint.name(), joint.dialer.as_fd()));
    let resources: Vec<(String, BorrowedFd<'_>)> = joints.chain(published).collect();
    Component::start(
        programs,
        group,
        Start {
            name: DIALER,
            program: &DIALER_PROGRAM,
            config: wire::encode(&dialer.config)?,
            resources,
            channel: pair(DIALER)?,
        },
    )
}

/// Both ends of one connection between device and dialer.
struct Joint {
    name: &'static str,
    device: Channel,
    dialer: Channel,
}

impl Joint {
    fn name(&self) -> String {
        self.name.to_owned()
    }
}

fn joint(name: &'static str) -> Result<Joint, Error> {
    let (device, dialer) = Channel::pair().map_err(|source| named(DIALER, source))?;
    Ok(Joint {
        name,
        device,
        dialer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        let config = wire::vsock::Config {
            guest_cid: 3,
            accept_ports: Vec::new(),
        };
        Unit::new(Device::vsock(&config).unwrap(), 1)
    }

    #[test]
    fn five_deaths_in_ten_seconds_are_borne_and_the_sixth_is_not() {
        let mut unit = unit();
        let start = Instant::now();
        for second in 0..5 {
            assert!(unit.mourn(start + Duration::from_secs(second)));
        }
        assert_eq!(unit.life, 5);
        assert!(!unit.mourn(start + Duration::from_secs(9)));
        assert_eq!(unit.life, 5);
    }

    #[test]
    fn deaths_that_are_long_past_do_not_count() {
        let mut unit = unit();
        let start = Instant::now();
        for death in 0..50 {
            assert!(unit.mourn(start + Duration::from_secs(3 * death)));
        }
    }
}
