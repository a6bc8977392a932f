//! What a supervisor needs to start a machine: open files and numbers, no paths and no choices.

use std::{net::SocketAddr, os::fd::OwnedFd};

use foreign::Foreign;
use serde::Serialize;
use wire::net::DialerConfig;

use crate::{Error, Programs, console::Sink, journal::journal};

/// A machine, ready to be started.
pub struct Plan {
    /// The components' programs.
    pub programs: Programs,
    /// `/dev/kvm`, open for reading and writing.
    pub kvm: OwnedFd,
    /// The kernel image.
    pub kernel: OwnedFd,
    /// Archives that make up the initramfs, in this order.
    pub initramfs: Vec<OwnedFd>,
    /// Number of vCPUs.
    pub cpus: u8,
    /// Guest memory in bytes.
    pub memory: u64,
    /// The kernel's command line.
    pub command_line: String,
    /// The devices, in the order of their PCI slots.
    pub devices: Vec<Device>,
    /// Devices whose back ends are somebody else's, after all others.
    pub external: Vec<External>,
    /// The guest's vsock device; without it there is no way to talk to the guest.
    pub vsock: Option<wire::vsock::Config>,
    /// Where the guest's serial console goes, besides the end of it that is kept for errors.
    pub console: Option<Sink>,
}

/// What the VMM has to know of a device.
pub struct Description {
    /// What people call it, unique within the machine.
    pub name: String,
    /// The virtio device id.
    pub virtio_id: u16,
    /// The largest size of each of its queues.
    pub queues: Vec<u16>,
    /// Its config space, if it is not the back end's to say.
    pub config_space: Option<Vec<u8>>,
    /// If its process dies another takes its place, with the same configuration and resources: it uses its
    /// queues in order, and does without what it knew or keeps that in one of its resources. Otherwise its end
    /// is the machine's.
    pub replaceable: bool,
}

/// A device process.
pub struct Device {
    /// What it is to the VMM.
    pub description: Description,
    /// What runs in it.
    pub program: Program,
    /// Its encoded configuration.
    pub config: Vec<u8>,
    /// Its open files, besides its end of the vhost-user connection.
    pub resources: Vec<(String, OwnedFd)>,
    /// The process that makes its sockets for it.
    pub dialer: Option<Dialer>,
}

/// A device's program.
pub enum Program {
    /// A component of ours: its policy has this name, its program this name after `crumble-`.
    Component(&'static str),
    /// Somebody else's.
    Foreign(Foreign),
}

/// A device whose back end is not started, and not ended, by us. When it fails so does the machine.
pub struct External {
    /// What it is.
    pub description: Description,
    /// The connection to the back end.
    pub stream: OwnedFd,
}

/// The process between a network device and the host's network.
pub struct Dialer {
    /// What it is started with.
    pub config: DialerConfig,
    /// A bound socket for each of [`DialerConfig::publish`], at most [`Dialer::MOST_PUBLISHED`].
    pub published: Vec<OwnedFd>,
    /// Is asked every few seconds, and answers if the host's name servers have changed.
    pub nameservers: Nameservers,
}

/// The host's name servers, if they are others than when this was asked last.
pub type Nameservers = Box<dyn FnMut() -> Option<Vec<SocketAddr>> + Send>;

impl Dialer {
    /// What travels with its start beside two sockets to the device.
    pub const MOST_PUBLISHED: usize = handoff::MAX_FDS - 2;
}

/// Where a network device's packets go.
pub enum Uplink {
    /// To sockets that a dialer makes.
    User(Dialer),
    /// To a TAP device with virtio's headers.
    Tap(OwnedFd),
}

impl Description {
    fn of_ours(name: impl Into<String>, virtio_id: u16, queues: Vec<u16>) -> Self {
        Self {
            name: name.into(),
            virtio_id,
            queues,
            config_space: None,
            replaceable: true,
        }
    }
}

impl Device {
    /// The network device (virtio 1.2, section 5.1): pairs of receive and transmit, and control.
    const NET_ID: u16 = 1;
    const NET_QUEUE: u16 = 1024;
    const NET_CONTROL: u16 = 64;
    /// The block device (virtio 1.2, section 5.2): request queues.
    const BLOCK_ID: u16 = 2;
    /// The console device (virtio 1.2, section 5.3): two queues for each port, and two of control.
    const CONSOLE_ID: u16 = 3;
    const CONSOLE_QUEUE: u16 = 64;
    /// The memory balloon device (virtio 1.2, section 5.5): inflate, deflate and free page reporting.
    const BALLOON_ID: u16 = 5;
    const BALLOON_QUEUES: [u16; 3] = [128; 3];
    /// The file-system device (virtio 1.2, section 5.11): a high priority queue and one request
    /// queue.
    const FS_ID: u16 = 26;
    const FS_QUEUES: [u16; 2] = [128, 1024];
    /// The socket device (virtio 1.2, section 5.10): receive, transmit and event.
    const VSOCK_ID: u16 = 19;
    const VSOCK_QUEUES: [u16; 3] = [256, 256, 64];

    /// A file-system device that serves the directory `root`.
    ///
    /// # Errors
    /// If the configuration is too long to be sent, or no memory can be had.
    pub fn fs(config: &wire::fs::Config, root: OwnedFd) -> Result<Self, Error> {
        let journal = journal(wire::fs::JOURNAL_SIZE)?;
        Ok(Self {
            description: Description::of_ours(
                format!("fs-{}", config.tag),
                Self::FS_ID,
                Self::FS_QUEUES.to_vec(),
            ),
            program: Program::Component("dev-fs"),
            config: encode(config)?,
            resources: vec![("root".to_owned(), root), ("journal".to_owned(), journal)],
            dialer: None,
        })
    }

    /// A network device whose packets go to `uplink`, which [`wire::net::Config::backend`] agrees
    /// with, and to the file `pcap` as well.
    ///
    /// # Errors
    /// If the configuration is too long to be sent.
    pub fn net(
        config: &wire::net::Config,
        uplink: Uplink,
        pcap: Option<OwnedFd>,
    ) -> Result<Self, wire::Error> {
        let (tap, dialer) = match uplink {
            Uplink::User(dialer) => (None, Some(dialer)),
            Uplink::Tap(tap) => (Some(tap), None),
        };
        let pairs = usize::from(config.pairs);
        let mut queues = vec![Self::NET_QUEUE; pairs.saturating_mul(2)];
        queues.push(Self::NET_CONTROL);
        let resources = [("tap", tap), ("pcap", pcap)];
        let resources = resources
            .into_iter()
            .filter_map(|(name, fd)| Some((name.to_owned(), fd?)));
        Ok(Self {
            description: Description::of_ours("net", Self::NET_ID, queues),
            program: Program::Component("dev-net"),
            config: encode(config)?,
            resources: resources.collect(),
            dialer,
        })
    }

    /// A block device called `name` that serves `extents`, an open file for each of
    /// [`wire::block::Config::extents`].
    ///
    /// # Errors
    /// If the configuration is too long to be sent.
    pub fn block(
        config: &wire::block::Config,
        extents: Vec<OwnedFd>,
        name: &str,
    ) -> Result<Self, wire::Error> {
        let resources = extents.into_iter().enumerate();
        let resources = resources.map(|(index, file)| (wire::block::Config::resource(index), file));
        Ok(Self {
            description: Description::of_ours(
                name,
                Self::BLOCK_ID,
                vec![wire::block::Config::QUEUE_SIZE; config.queues.into()],
            ),
            program: Program::Component("dev-block"),
            config: encode(config)?,
            resources: resources.collect(),
            dialer: None,
        })
    }

    /// A console device with these ports: a name, and a socket that keeps the boundaries of messages
    /// ([`wire::console`]).
    ///
    /// # Errors
    /// If the configuration is too long to be sent.
    pub fn console(ports: Vec<(String, OwnedFd)>) -> Result<Self, wire::Error> {
        let queues = ports.len().saturating_add(1).saturating_mul(2);
        let (ports, sockets): (_, Vec<_>) = ports.into_iter().unzip();
        let sockets = sockets.into_iter().enumerate();
        let config = wire::console::Config { ports };
        Ok(Self {
            description: Description::of_ours(
                "terminal",
                Self::CONSOLE_ID,
                vec![Self::CONSOLE_QUEUE; queues],
            ),
            program: Program::Component("dev-console"),
            config: encode(&config)?,
            resources: sockets
                .map(|(port, socket)| (wire::console::Config::resource(port), socket))
                .collect(),
            dialer: None,
        })
    }

    /// A memory balloon device that hears of free pages, and gives them back to the host.
    ///
    /// # Errors
    /// None is known of.
    pub fn balloon() -> Result<Self, wire::Error> {
        Ok(Self {
            description: Description::of_ours(
                "balloon",
                Self::BALLOON_ID,
                Self::BALLOON_QUEUES.to_vec(),
            ),
            program: Program::Component("dev-balloon"),
            config: encode(&())?,
            resources: Vec::new(),
            dialer: None,
        })
    }

    /// A device that `program` serves, with these descriptors, of which the name is the number that it has in
    /// the program: it takes its front end's connection from the one that is [`Device::LISTENER`].
    ///
    /// # Errors
    /// If the policy is too long to be sent.
    pub fn foreign(
        description: Description,
        program: Foreign,
        resources: Vec<(String, OwnedFd)>,
    ) -> Result<Self, wire::Error> {
        Ok(Self {
            description,
            config: encode(program.config())?,
            program: Program::Foreign(program),
            resources,
            dialer: None,
        })
    }

    /// The number of the socket on which somebody else's program finds its front end.
    pub const LISTENER: &str = "3";

    /// A socket device.
    pub(crate) fn vsock(config: &wire::vsock::Config) -> Result<Self, Error> {
        let journal = journal(wire::vsock::JOURNAL_SIZE)?;
        Ok(Self {
            description: Description::of_ours("vsock", Self::VSOCK_ID, Self::VSOCK_QUEUES.to_vec()),
            program: Program::Component("dev-vsock"),
            config: encode(config)?,
            resources: vec![("journal".to_owned(), journal)],
            dialer: None,
        })
    }
}

fn encode(config: &impl Serialize) -> Result<Vec<u8>, wire::Error> {
    wire::encode(config)
}
