//! A machine, put together and started.

use std::{
    collections::BTreeMap,
    fs::File,
    mem::ManuallyDrop,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Arc, mpsc::Sender},
    thread,
    time::Duration,
};

use boot::{Guest, Layout, layout::input};
use handoff::Resources;
use hv::{Hypervisor, RamOptions, Vcpu, Vm, x86_64};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use wire::vmm::{Config, Device};

use crate::{
    Error,
    bus::Bus,
    counters::Counters,
    devices::DeviceHost,
    memory,
    process::Input,
    serial::Serial,
    vcpu,
    virtio::{self, Limits, Replacement},
};

/// The most PCI devices besides the host bridge.
const MAX_DEVICES: usize = pci::DEVICES - 1;

/// Memory comes in multiples of this.
const MEMORY_UNIT: u64 = 2 << 20;

/// How often devices are asked for signs of life.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// What the supervisor handed over, checked to be complete.
pub(crate) struct Parts {
    kvm: OwnedFd,
    kernel: File,
    initramfs: Vec<File>,
    console: Option<File>,
    devices: Vec<(Device, UnixStream)>,
    command_line: String,
    cpus: u8,
    layout: Layout,
}

impl Parts {
    pub(crate) fn take(config: Config, mut resources: Resources) -> Result<Self, Error> {
        if config.cpus == 0 || config.cpus == u8::MAX {
            return Err(Error::Config(format!("{} CPUs", config.cpus)));
        }
        check_memory(config.memory)?;
        if config.devices.len() > MAX_DEVICES {
            return Err(Error::Config(format!("{} devices", config.devices.len())));
        }
        let mut file = |name: &str| resources.take(name).map(File::from);
        let kernel = file("kernel")?;
        let initramfs = config.initramfs.iter().map(|name| file(name));
        let initramfs = initramfs.collect::<Result<_, _>>()?;
        let console = config.console.then(|| file("console")).transpose()?;
        let devices = config.devices.into_iter().map(|device| {
            let socket = resources.take(&device.resource)?;
            Ok((device, UnixStream::from(socket)))
        });
        let devices = devices.collect::<Result<_, handoff::Error>>()?;
        Ok(Self {
            kvm: resources.take("kvm")?,
            kernel,
            initramfs,
            console,
            devices,
            command_line: config.command_line,
            cpus: config.cpus,
            layout: Layout::new(config.memory),
        })
    }
}

/// Whether a machine may have `memory` bytes.
fn check_memory(memory: u64) -> Result<(), Error> {
    if memory == 0 || !memory.is_multiple_of(MEMORY_UNIT) {
        return Err(Error::Config(format!(
            "{memory} bytes of memory: it must be a multiple of 2 MiB"
        )));
    }
    Ok(())
}

/// Whether all of the machine has addresses that its CPUs can form.
fn check_addresses(layout: &Layout, bits: u8) -> Result<(), Error> {
    let end = layout.pci_window().end;
    if end.checked_shr(bits.into()).is_some_and(|above| above > 0) {
        let mib = layout.low.saturating_add(layout.high) >> 20;
        return Err(Error::Config(format!(
            "{mib} MiB of memory: the addresses of this host's guests have {bits} bits, and devices \
             come after the memory"
        )));
    }
    Ok(())
}

/// A machine that runs.
pub(crate) struct Machine {
    /// Presses the power button.
    pub(crate) power: EventFd,
    pub(crate) counters: Arc<Counters>,
    /// By the names of the devices.
    pub(crate) replacements: BTreeMap<String, Replacement>,
}

/// Puts the machine together and lets it run. What happens to it goes to `tell`.
pub(crate) fn start(parts: Parts, tell: &Sender<Input>) -> Result<Machine, Error> {
    let kvm = hv_kvm::Kvm::from_fd(parts.kvm)?;
    let vm = Arc::new(kvm.create_vm()?);
    check_addresses(&parts.layout, vm.address_bits())?;
    let (memory, regions) = memory::create(&parts.layout)?;
    for region in regions {
        vm.add_ram(region, RamOptions::default())?;
    }
    // First, so that they say hello while the kernel is being loaded.
    // Kept even if the rest fails: a device that sees its socket close ends, and would be taken for
    // the reason, while taking the machine apart delays ours.
    let (pci, replacements) = attach(parts.devices, &memory, &vm, &parts.layout, tell)?;
    let pci = ManuallyDrop::new(pci);
    let serial = Serial::new(parts.console)?;
    vm.line_event(input::SERIAL, serial.line())?;
    let power = EventFd::new(EFD_NONBLOCK).map_err(Error::system("make an event"))?;
    vm.line_event(input::POWER, &power)?;
    let guest = Guest {
        kernel: &parts.kernel,
        initramfs: &parts.initramfs,
        command_line: &parts.command_line,
        cpus: parts.cpus,
    };
    let entry = boot::load(&guest, &memory, &parts.layout)?;
    // Nobody listens any more if the process is about to end.
    let _ = tell.send(Input::Loaded);
    let bus = Arc::new(Bus {
        pci: ManuallyDrop::into_inner(pci),
        serial,
    });
    let counters = Arc::new(Counters::default());
    run_vcpus(vm.as_ref(), parts.cpus, entry, &bus, &counters, tell)?;
    check_devices(replacements.values().cloned().collect())?;
    Ok(Machine {
        power,
        counters,
        replacements,
    })
}

fn attach<V>(
    devices: Vec<(Device, UnixStream)>,
    memory: &GuestMemoryMmap,
    vm: &Arc<V>,
    layout: &Layout,
    tell: &Sender<Input>,
) -> Result<(pci::Bus, BTreeMap<String, Replacement>), Error>
where
    V: Vm<Event = EventFd>,
{
    let host = Arc::new(DeviceHost(Arc::clone(vm)));
    let mut bus = pci::Bus::new();
    let mut replacements = BTreeMap::new();
    for (device, socket) in devices {
        let tell = tell.clone();
        let report = Box::new(move |event| {
            let _ = tell.send(Input::Device(event));
        });
        let limits = Limits::default();
        let function = virtio::vhost_user_device(&device, socket, memory, &host, limits, report);
        let (function, replacement) = function.map_err(|source| Error::Device {
            name: device.name.clone(),
            source,
        })?;
        bus.add(Box::new(function))?;
        replacements.insert(device.name, replacement);
    }
    bus.assign_bars(layout.pci_window())?;
    Ok((bus, replacements))
}

/// Asks the devices' back ends for signs of life as long as there is a machine.
fn check_devices(devices: Vec<Replacement>) -> Result<(), Error> {
    let body = move || {
        loop {
            thread::sleep(CHECK_EVERY);
            devices.iter().for_each(Replacement::check);
        }
    };
    thread::Builder::new()
        .name("signs-of-life".into())
        .spawn(body)
        .map_err(Error::system("start a thread for signs of life"))?;
    Ok(())
}

/// Makes all vCPUs before the first runs: a guest starts the others by itself.
fn run_vcpus<V: Vm>(
    vm: &V,
    count: u8,
    entry: boot::Entry,
    bus: &Arc<Bus>,
    counters: &Counters,
    tell: &Sender<Input>,
) -> Result<(), Error>
where
    V::Vcpu: 'static,
{
    let vcpus = (0..count).map(|index| vm.create_vcpu(index, count));
    let mut vcpus = vcpus.collect::<Result<Vec<_>, _>>()?;
    if let Some(first) = vcpus.first_mut() {
        first.set_entry(&x86_64::Entry::Protected {
            rip: entry.rip,
            rbx: entry.start_info,
        })?;
    }
    for (index, mut vcpu) in vcpus.into_iter().enumerate() {
        let (bus, exits, tell) = (Arc::clone(bus), counters.add(), tell.clone());
        let body = move || {
            if index == 0 {
                let _ = tell.send(Input::Entered);
            }
            let end = vcpu::run_to_end(&mut vcpu, &bus, &exits);
            let _ = tell.send(Input::Ended(end));
        };
        thread::Builder::new()
            .name(format!("vcpu-{index}"))
            .spawn(body)
            .map_err(Error::system("start a vCPU's thread"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_in_pieces_of_2_mib() {
        for memory in [0, 1 << 20, (64 << 20) + 4096, u64::MAX] {
            assert!(check_memory(memory).is_err(), "{memory}");
        }
        assert!(check_memory(64 << 20).is_ok());
    }

    #[test]
    fn a_machine_fits_the_addresses_of_its_cpus() {
        let fits = |memory, bits| check_addresses(&Layout::new(memory), bits).is_ok();
        assert!(fits(64 << 20, 36) && fits(512 << 30, 40));
        // 64 GiB of addresses, of which devices take 16 and the hole 1.
        assert!(fits(43 << 30, 36) && !fits(48 << 30, 36));
        assert!(!fits(u64::MAX - (2 << 20), 52));
    }
}
