//! The processes of one device: its own, and the dialer that makes its sockets.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use handoff::Channel;
use jailer::Group;

use crate::{
    Device, Dialer, Error, Programs,
    component::{Component, Start},
    launch::{named, pair},
};

/// What joins a network device and its dialer: a pair of sockets each, which keep the boundaries of
/// messages (`wire::net`).
const JOINTS: [&str; 2] = ["streams", "datagrams"];

/// What people call the dialer.
pub(crate) const DIALER: &str = "dialer";

/// A device and its processes among a machine's components.
pub(crate) struct Unit {
    pub(crate) device: Device,
    /// Which component is the device's own process. The dialer, if there is one, is the next.
    first: usize,
}

impl Unit {
    pub(crate) const fn new(device: Device, first: usize) -> Self {
        Self { device, first }
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

    /// Starts its processes, in the order of the components. The device takes its front end's
    /// connection from `listener`.
    pub(crate) fn start(
        &self,
        programs: &Programs,
        group: Option<&Group>,
        listener: &OwnedFd,
        channel: (Channel, Channel),
    ) -> Result<Vec<Component>, Error> {
        let device = &self.device;
        let joints = match device.dialer {
            Some(_) => JOINTS.into_iter().map(joint).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let mut resources = vec![("vhost-user".to_owned(), listener.as_fd())];
        let own = device.resources.iter();
        resources.extend(own.map(|(name, fd)| (name.clone(), fd.as_fd())));
        let ends = joints
            .iter()
            .map(|joint: &Joint| (joint.name(), joint.device.as_fd()));
        resources.extend(ends);
        let own = Start {
            name: &device.name,
            component: &device.component,
            config: device.config.clone(),
            resources,
            channel,
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
            component: DIALER,
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
