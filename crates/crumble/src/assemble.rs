//! From the description of a machine to open files.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, Write},
    mem,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use image::Pull;
use kernel::{Cache, Kernel, Source};
use nix::{
    fcntl::{Flock, OFlag},
    sys::memfd::MFdFlags,
};
use supervisor::{Device, External, Plan, Programs};
use wire::{
    agent::{Lower, Mount, READY_PORT, Root, Setup, Upper, VERSION},
    fs,
};

use crate::{
    Error, Image, Images, MachineSpec, Published, Share, Terminal, busybox, disks,
    external::{self, Found},
    host, images,
    kept::Kept,
    network, volumes,
};

/// What the kernel is told. The serial port is there for its last words, so it says nothing else;
/// a panic ends the machine at once; there is nothing to probe for that the machine does not have.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 reboot=acpi tsc=reliable \
    no_timer_check random.trust_cpu=on";

/// The same for a kernel that says what it does.
const VERBOSE_COMMAND_LINE: &str = "console=ttyS0 loglevel=7 panic=-1 reboot=acpi tsc=reliable \
    no_timer_check random.trust_cpu=on";

/// The tag of the root file system's device.
const ROOT_TAG: &str = "root";

/// The serial number of the disk with the root's layers.
const ROOT_SERIAL: &str = "image";

/// The first context id that is not taken (virtio 1.2, section 5.10.4). Context ids only name a
/// guest within its own vsock device, and each machine has one of its own.
const GUEST_CID: u64 = 3;

/// What a machine is made from besides its description.
pub(crate) struct Extras {
    /// Where the guest's serial console goes.
    pub(crate) console: Option<Box<dyn Write + Send>>,
    /// The guest's kernel says what it does.
    pub(crate) verbose: bool,
    /// Where the programs are.
    pub(crate) programs: Option<PathBuf>,
    /// Where packets are written as well.
    pub(crate) pcap: Option<PathBuf>,
    /// Unpacked layers that the root is made from instead of the image, the lowest first.
    pub(crate) layers: Option<Vec<PathBuf>>,
    /// A disk for what is written instead of memory.
    pub(crate) upper: Option<(Device, Upper)>,
    /// What is mounted after the shares.
    pub(crate) beside: Vec<Beside>,
    /// Which image of a name, and when to fetch it.
    pub(crate) pull: Pull,
    /// Is told how fetching an image goes.
    pub(crate) fetching: Box<dyn image::Progress>,
}

/// What a machine has beside its root, at an absolute path.
pub(crate) enum Beside {
    /// Memory, of at most so many bytes.
    Memory { path: String, size: Option<u64> },
    /// A part of the root that unpacked layers make, the lowest first.
    Part {
        layers: Vec<PathBuf>,
        source: String,
        path: String,
        writable: bool,
    },
}

/// A machine that can be started.
pub(crate) struct Assembled {
    pub(crate) plan: Plan,
    /// Held while it runs: those on its disks, and on what it writes if that is kept.
    pub(crate) locks: Vec<Flock<File>>,
    /// How the image is to be run.
    pub(crate) config: image::Config,
    /// Our end of the guest's terminal, if it has one.
    pub(crate) terminal: Option<Terminal>,
    /// The ports that lead to the guest.
    pub(crate) published: Vec<Published>,
    /// What the caller should know, a sentence each.
    pub(crate) warnings: Vec<String>,
}

/// Opens everything that the machine needs.
pub(crate) fn assemble(
    spec: &MachineSpec,
    mut extras: Extras,
    progress: &mut dyn FnMut(&str),
) -> Result<Assembled, Error> {
    spec.check()?;
    let kvm = host::open_kvm()?;
    host::check_memory(spec.memory)?;
    let programs = extras.programs.take().map_or_else(own_directory, Ok)?;
    let cache = Cache::of_user().map_err(Error::Kernel)?;
    let root = root(spec, &mut extras, &programs, &cache)?;
    let programs = Programs::in_directory(programs);
    let furnished = furnish(spec, &mut extras, root)?;
    let setup = &furnished.setup;
    let kernel = resolve(spec, &cache, progress)?;
    let drivers = drivers(spec, setup);
    let initramfs = initramfs(&kernel, &programs, setup, &drivers, &cache)?;
    let line = if extras.verbose {
        VERBOSE_COMMAND_LINE
    } else {
        COMMAND_LINE
    };
    let plan = Plan {
        programs,
        kvm,
        kernel: open(&kernel.vmlinux)?,
        initramfs,
        cpus: spec.cpus.get(),
        memory: spec.memory.bytes(),
        command_line: line.to_owned(),
        devices: furnished.devices,
        external: furnished.external,
        vsock: Some(wire::vsock::Config {
            guest_cid: GUEST_CID,
            accept_ports: vec![READY_PORT],
        }),
        console: extras.console,
    };
    Ok(Assembled {
        plan,
        locks: furnished.locks,
        config: furnished.config,
        terminal: furnished.terminal,
        published: furnished.published,
        warnings: furnished.warnings,
    })
}

/// What a machine has, and what its agent is told of it.
struct Furnished {
    setup: Setup,
    devices: Vec<Device>,
    external: Vec<External>,
    locks: Vec<Flock<File>>,
    config: image::Config,
    terminal: Option<Terminal>,
    published: Vec<Published>,
    warnings: Vec<String>,
}

/// Opens what the devices serve.
fn furnish(
    spec: &MachineSpec,
    extras: &mut Extras,
    mut root: RootParts,
) -> Result<Furnished, Error> {
    let mut locks: Vec<_> = root.kept.take().into_iter().collect();
    let config = root.config.clone();
    // They are the guest's first.
    let mut devices = Vec::new();
    for (index, disk) in spec.disks.iter().enumerate() {
        let (device, lock) = disks::open(disk, index)?;
        devices.push(device);
        locks.push(lock);
    }
    let mut shares = spec.shares.clone();
    for volume in &spec.volumes {
        let (share, lock) = volumes::open(volume)?;
        shares.push(share);
        locks.push(lock);
    }
    let (mut setup, others) = file_systems(spec, &shares, root)?;
    devices.extend(others);
    for (index, beside) in mem::take(&mut extras.beside).into_iter().enumerate() {
        let (mount, device) = mount(index, beside)?;
        setup.mounts.push(mount);
        devices.extend(device);
    }
    let pcap = extras.pcap.as_deref().map(create).transpose()?;
    let network = network::connect(spec, pcap)?;
    setup.network = network.guest;
    devices.extend(network.device);
    let terminal = spec.terminal.then(Terminal::new).transpose()?;
    let (terminal, console) = terminal.unzip();
    devices.extend(console);
    if spec.free_page_reporting {
        devices.push(Device::balloon().map_err(supervisor::Error::from)?);
    }
    let mut external = Vec::new();
    for (index, device) in spec.external.iter().enumerate() {
        match external::find(device, index)? {
            Found::Connected(device) => external.push(device),
            Found::Program(device) => devices.push(*device),
        }
    }
    Ok(Furnished {
        setup,
        devices,
        external,
        locks,
        config,
        terminal,
        published: network.published,
        warnings: network.warnings,
    })
}

/// The programs lie beside the running one.
pub(crate) fn own_directory() -> Result<PathBuf, Error> {
    let program = std::env::current_exe().map_err(|source| Error::Open {
        path: "/proc/self/exe".into(),
        source,
    })?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}

/// What a root is made from.
struct RootParts {
    lower: Lower,
    upper: Upper,
    devices: Vec<Device>,
    config: image::Config,
    kept: Option<Flock<File>>,
}

fn root(
    spec: &MachineSpec,
    extras: &mut Extras,
    programs: &Path,
    cache: &Cache,
) -> Result<RootParts, Error> {
    let mut root = match (&spec.image, &extras.layers) {
        (_, Some(layers)) => layers_root(
            layers.iter().map(PathBuf::as_path),
            image::Config::default(),
        )?,
        (image @ (Image::Host | Image::Busybox | Image::Directory(_)), None) => {
            if spec.name.is_some() {
                return Err(Error::NotKept(image.clone()));
            }
            directory_root(image, cache)?
        }
        (_, None) => {
            let images = Images::with_programs(programs)?;
            image_root(spec, &images, &extras.pull, &*extras.fetching)?
        }
    };
    if let Some((device, upper)) = extras.upper.take() {
        root.devices.push(device);
        root.upper = upper;
    }
    Ok(root)
}

fn directory_root(image: &Image, cache: &Cache) -> Result<RootParts, Error> {
    let (root, caching) = match image {
        // Nobody changes it once it is there.
        Image::Busybox => (busybox::root(cache.root())?, fs::Cache::Always),
        Image::Directory(path) => (path.clone(), fs::Cache::Auto),
        _ => (PathBuf::from("/"), fs::Cache::Auto),
    };
    Ok(RootParts {
        lower: Lower::Tag(ROOT_TAG.to_owned()),
        upper: Upper::Memory,
        devices: vec![fs_device(ROOT_TAG, &root, true, caching)?],
        config: image::Config::default(),
        kept: None,
    })
}

fn image_root(
    spec: &MachineSpec,
    images: &Images,
    pull: &Pull,
    progress: &dyn image::Progress,
) -> Result<RootParts, Error> {
    let kept = spec.name.as_ref().map(Kept::open).transpose()?;
    let stored = match &kept {
        Some(kept) => kept.image(&spec.image, images, pull, progress)?,
        None => images.get(&spec.image, pull, progress)?,
    };
    let mut config = stored.config().clone();
    if config.working_dir.is_empty() {
        config.working_dir = "/".to_owned();
    }
    let mut root = layers_root(stored.layers(), config)?;
    if let Some(kept) = kept {
        let (device, upper) = kept.disk()?;
        root.devices.push(device);
        root.upper = upper;
        root.kept = Some(kept.into_lock());
    }
    Ok(root)
}

fn layers_root<'p>(
    layers: impl IntoIterator<Item = &'p Path>,
    config: image::Config,
) -> Result<RootParts, Error> {
    let (device, lower) = images::disk(layers, ROOT_SERIAL)?;
    Ok(RootParts {
        lower,
        upper: Upper::Memory,
        devices: vec![device],
        config,
        kept: None,
    })
}

/// What the agent mounts, and the devices that serve it.
fn file_systems(
    spec: &MachineSpec,
    directories: &[Share],
    root: RootParts,
) -> Result<(Setup, Vec<Device>), Error> {
    let mut devices = root.devices;
    let mut shares = Vec::new();
    for (index, share) in directories.iter().enumerate() {
        let tag = format!("share{index}");
        devices.push(fs_device(
            &tag,
            &share.host,
            share.read_only,
            fs::Cache::Auto,
        )?);
        shares.push(wire::agent::Share {
            tag,
            path: share.guest.clone(),
            read_only: share.read_only,
        });
    }
    let setup = Setup {
        version: VERSION,
        hostname: spec.hostname.as_str().to_owned(),
        root: Root::Overlay {
            lower: root.lower,
            upper: root.upper,
        },
        directories: places(&root.config),
        shares,
        mounts: Vec::new(),
        network: None,
        init: spec.init.as_ref().map(ToString::to_string),
        terminal: spec.terminal,
    };
    Ok((setup, devices))
}

/// What the agent mounts, and the device that it takes.
fn mount(index: usize, beside: Beside) -> Result<(Mount, Option<Device>), Error> {
    Ok(match beside {
        Beside::Memory { path, size } => (Mount::Memory { path, size }, None),
        Beside::Part {
            layers,
            source,
            path,
            writable,
        } => {
            let layers = layers.iter().map(PathBuf::as_path);
            let (device, lower) = images::disk(layers, &format!("part{index}"))?;
            let part = Mount::Part {
                lower,
                source,
                path,
                writable,
            };
            (part, Some(device))
        }
    })
}

/// What an image needs beside what is in its layers.
fn places(config: &image::Config) -> Vec<String> {
    let named = config.volumes.iter().chain([&config.working_dir]);
    let absolute = named.filter(|path| path.starts_with('/'));
    absolute.cloned().collect()
}

/// The device that serves a directory.
pub(crate) fn fs_device(
    tag: &str,
    directory: &Path,
    read_only: bool,
    cache: fs::Cache,
) -> Result<Device, Error> {
    let fd = open_directory(directory).map_err(|source| Error::Directory {
        path: directory.to_owned(),
        source,
    })?;
    let config = fs::Config {
        tag: tag.to_owned(),
        read_only,
        cache,
        writeback: false,
        xattr: true,
        // Overlayfs refuses directories on which another file system is mounted.
        submounts: tag != ROOT_TAG,
        // To ask for lists that a root's files do not have is a request for each of them.
        acl: tag != ROOT_TAG,
        ids: host::ids(read_only),
    };
    Ok(Device::fs(&config, fd)?)
}

/// Without reading rights on it yet: what the device may do it does by its own.
fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    Ok(file.into())
}

fn resolve(
    spec: &MachineSpec,
    cache: &Cache,
    progress: &mut dyn FnMut(&str),
) -> Result<Kernel, Error> {
    let source = match &spec.kernel {
        Some(path) => Source::Path {
            kernel: path.clone(),
            modules: None,
        },
        None => Source::Distribution,
    };
    kernel::resolve(&source, cache, progress).map_err(Error::Kernel)
}

/// The guest's modules for the devices that the machine has.
fn drivers(spec: &MachineSpec, setup: &Setup) -> Vec<&'static str> {
    let mut drivers = kernel::MACHINE_MODULES.to_vec();
    if setup.network.is_some() {
        drivers.extend(kernel::NETWORK_MODULES);
    }
    if let Root::Overlay {
        lower: Lower::Layers { .. },
        ..
    } = &setup.root
    {
        drivers.extend(kernel::IMAGE_MODULES);
    } else if !spec.disks.is_empty() {
        drivers.extend(kernel::BLOCK_MODULES);
    }
    drivers.extend(spec.terminal.then_some(kernel::CONSOLE_MODULE));
    drivers.extend(spec.free_page_reporting.then_some(kernel::BALLOON_MODULE));
    let external = spec.external.iter();
    drivers.extend(external.filter_map(|device| kernel::driver(device.virtio_id)));
    // Of the same devices there may be several.
    let mut seen = HashSet::new();
    drivers.retain(|driver| seen.insert(*driver));
    drivers
}

/// The part that all machines with this kernel and devices of the same kinds share, then what is this
/// machine's own.
fn initramfs(
    kernel: &Kernel,
    programs: &Programs,
    setup: &Setup,
    drivers: &[&str],
    cache: &Cache,
) -> Result<Vec<OwnedFd>, Error> {
    let agent = programs.path("crumble-agent")?;
    let shared = kernel::initramfs(kernel, &agent, drivers, cache).map_err(Error::Kernel)?;
    let own = kernel::setup_archive(setup).map_err(Error::Kernel)?;
    Ok(vec![open(&shared)?, in_memory(&own)?])
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let file = File::open(path).map_err(|source| Error::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(file.into())
}

fn create(path: &Path) -> Result<OwnedFd, Error> {
    let file = File::create(path).map_err(|source| Error::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(file.into())
}

/// A file without a name that has these bytes, open for reading.
pub(crate) fn in_memory(bytes: &[u8]) -> Result<OwnedFd, Error> {
    let made = nix::sys::memfd::memfd_create("crumble-setup", MFdFlags::MFD_CLOEXEC);
    let write = |fd: OwnedFd| {
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok::<OwnedFd, io::Error>(File::open(path)?.into())
    };
    made.map_err(io::Error::from)
        .and_then(write)
        .map_err(|source| Error::Open {
            path: "a memory file".into(),
            source,
        })
}
