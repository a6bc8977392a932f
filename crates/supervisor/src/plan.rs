//! What a supervisor needs to start a machine: open files and numbers, no paths and no choices.

use std::os::fd::OwnedFd;

use serde::Serialize;

use crate::{Programs, console::Sink};

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
    /// The guest's vsock device; without it there is no way to talk to the guest.
    pub vsock: Option<wire::vsock::Config>,
    /// Where the guest's serial console goes, besides the end of it that is kept for errors.
    pub console: Option<Sink>,
}

/// A device process and what the VMM has to know of it.
pub struct Device {
    /// What people call it, unique within the machine.
    pub name: String,
    /// The component: its policy has this name, its program this name after `crumble-`.
    pub component: String,
    /// The virtio device id.
    pub virtio_id: u16,
    /// The largest size of each of its queues.
    pub queues: Vec<u16>,
    /// Its encoded configuration.
    pub config: Vec<u8>,
    /// Its open files, besides its end of the vhost-user connection.
    pub resources: Vec<(String, OwnedFd)>,
}

impl Device {
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
    /// If the configuration is too long to be sent.
    pub fn fs(config: &wire::fs::Config, root: OwnedFd) -> Result<Self, wire::Error> {
        Ok(Self {
            name: format!("fs-{}", config.tag),
            component: "dev-fs".to_owned(),
            virtio_id: Self::FS_ID,
            queues: Self::FS_QUEUES.to_vec(),
            config: encode(config)?,
            resources: vec![("root".to_owned(), root)],
        })
    }

    /// A socket device.
    pub(crate) fn vsock(config: &wire::vsock::Config) -> Result<Self, wire::Error> {
        Ok(Self {
            name: "vsock".to_owned(),
            component: "dev-vsock".to_owned(),
            virtio_id: Self::VSOCK_ID,
            queues: Self::VSOCK_QUEUES.to_vec(),
            config: encode(config)?,
            resources: Vec::new(),
        })
    }
}

fn encode(config: &impl Serialize) -> Result<Vec<u8>, wire::Error> {
    wire::encode(config)
}
