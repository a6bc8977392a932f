//! The start of a machine's processes.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use handoff::Channel;
use jailer::{Budget, Delegation, Group};

use crate::{
    Device, Error, Plan,
    component::{Component, Start},
    link,
    machine::system,
    plan::{Description, Program},
    streams::Streams,
    unit::{self, Unit},
};

const VMM: Program = Program::Component("vmm");

/// Both ends of the control channel of the component `name`.
pub(crate) fn pair(name: &str) -> Result<(Channel, Channel), Error> {
    Channel::pair().map_err(|source| named(name, source))
}

/// What goes wrong with the channel of the component `name`.
pub(crate) fn named(name: &str, source: handoff::Error) -> Error {
    Error::Channel {
        name: name.to_owned(),
        source,
    }
}

/// The processes, none of which has said yet that it is ready.
pub(crate) struct Launched {
    /// Holds all of them, if the host lets us make groups.
    pub(crate) group: Option<Group>,
    /// The VMM first.
    pub(crate) components: Vec<Component>,
    /// The devices, which say which components are theirs.
    pub(crate) units: Vec<Unit>,
    /// Which of the components is the vsock device.
    pub(crate) vsock: Option<usize>,
    /// The guest's serial output.
    pub(crate) console: PipeReader,
    /// When the VMM was spawned.
    pub(crate) vmm_started: Instant,
}

/// Starts the VMM first: it loads the kernel while the devices are being started.
pub(crate) fn launch(
    plan: &mut Plan,
    vmm: (Channel, Channel),
    vsock_streams: &Streams,
) -> Result<Launched, Error> {
    let mut devices = std::mem::take(&mut plan.devices);
    let mut vsock = None;
    if let Some(config) = &plan.vsock {
        vsock = Some(devices.len());
        devices.push(Device::vsock(config)?);
    }
    let (console, console_end) = io::pipe().map_err(system("make a pipe for the console"))?;
    let links = link::links(devices.len()).map_err(system("make a socket for a device"))?;
    let (listeners, streams): (Vec<_>, Vec<_>) = links
        .into_iter()
        .map(|link| (link.listener, link.stream))
        .unzip();
    let group = group(plan, &devices)?;
    let vmm_started = Instant::now();
    let vmm = start_vmm(plan, &devices, &streams, &console_end, vmm, group.as_ref())?;
    let mut components = vec![vmm];
    let mut units = Vec::new();
    for (index, (device, listener)) in devices.into_iter().zip(&listeners).enumerate() {
        let unit = Unit::new(device, components.len());
        components.extend(unit.start(&plan.programs, group.as_ref(), listener)?);
        if vsock == Some(index)
            && let Some(component) = components.get(unit.first())
        {
            vsock_streams.hand_over(component.copy_channel()?)?;
        }
        units.push(unit);
    }
    let vsock = vsock.and_then(|index| units.get(index)).map(Unit::first);
    Ok(Launched {
        group,
        components,
        units,
        vsock,
        console,
        vmm_started,
    })
}

/// The machine's cgroup, where groups can be made.
fn group(plan: &Plan, devices: &[Device]) -> Result<Option<Group>, Error> {
    let Some(delegation) = Delegation::find() else {
        return Ok(None);
    };
    let devices_own = devices.iter().map(|device| device.program.policy());
    let dialers = devices.iter().filter_map(|device| device.dialer.as_ref());
    let dialers = dialers.map(|_| unit::DIALER_PROGRAM.policy());
    let mut policies = devices_own.chain(dialers).collect::<Result<Vec<_>, _>>()?;
    // One for each vCPU, and one for each device's processes to keep up with them.
    let cpus = u64::from(plan.cpus).saturating_add(policies.len() as u64);
    policies.push(VMM.policy()?);
    let budget = Budget {
        guest_memory: plan.memory,
        cpus,
    };
    Group::new(&delegation, budget, &policies)
        .map(Some)
        .map_err(Error::Group)
}

fn start_vmm(
    plan: &Plan,
    devices: &[Device],
    streams: &[OwnedFd],
    console: &PipeWriter,
    channel: (Channel, Channel),
    group: Option<&Group>,
) -> Result<Component, Error> {
    let initramfs: Vec<_> = (0..plan.initramfs.len())
        .map(|index| format!("initramfs-{index}"))
        .collect();
    let own = devices.iter().map(|device| &device.description);
    let external = plan.external.iter().map(|device| &device.description);
    let config = wire::vmm::Config {
        cpus: plan.cpus,
        memory: plan.memory,
        command_line: plan.command_line.clone(),
        initramfs: initramfs.clone(),
        console: true,
        devices: own.chain(external).map(describe).collect(),
    };
    let mut resources: Vec<(String, BorrowedFd<'_>)> = vec![
        ("kvm".to_owned(), plan.kvm.as_fd()),
        ("kernel".to_owned(), plan.kernel.as_fd()),
        ("console".to_owned(), console.as_fd()),
    ];
    resources.extend(initramfs.iter().zip(&plan.initramfs).map(resource));
    resources.extend(
        devices
            .iter()
            .map(|device| &device.description.name)
            .zip(streams)
            .map(resource),
    );
    let external = plan.external.iter();
    resources.extend(external.map(|device| resource((&device.description.name, &device.stream))));
    Component::start(
        &plan.programs,
        group,
        Start {
            name: "vmm",
            program: &VMM,
            config: wire::encode(&config)?,
            resources,
            channel,
        },
    )
}

fn resource<'a>((name, fd): (&String, &'a OwnedFd)) -> (String, BorrowedFd<'a>) {
    (name.clone(), fd.as_fd())
}

fn describe(device: &Description) -> wire::vmm::Device {
    wire::vmm::Device {
        name: device.name.clone(),
        resource: device.name.clone(),
        virtio_id: device.virtio_id,
        queues: device.queues.clone(),
        config_space: device.config_space.clone(),
        replaceable: device.replaceable,
    }
}
