//! Between the supervisor and the VMM, over a socket that keeps message boundaries.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// What the VMM is started with. File descriptors accompany it by name: `kvm` (an open
/// `/dev/kvm`), `kernel`, every name in [`Config::initramfs`], `console` if
/// [`Config::console`], and for each device a connected vhost-user socket named as
/// [`Device::resource`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Number of vCPUs, 1 to 254.
    pub cpus: u8,
    /// Guest memory in bytes, a multiple of 2 MiB.
    pub memory: u64,
    /// The kernel's command line.
    pub command_line: String,
    /// Resources that are concatenated, in this order, to the initramfs.
    pub initramfs: Vec<String>,
    /// Write the serial port's output to the `console` resource: the writing end of a pipe that is
    /// the VMM's alone, for the VMM makes it non-blocking. The port never has input.
    pub console: bool,
    /// The devices, in the order of their PCI slots.
    pub devices: Vec<Device>,
}

/// One vhost-user device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What people call it: `fs-root`, `vsock`.
    pub name: String,
    /// The name of the file descriptor: a connected Unix stream socket to the back end.
    pub resource: String,
    /// The virtio device id (virtio 1.2, section 5), 1 to 63.
    pub virtio_id: u16,
    /// The largest size of each queue, a power of two up to 32768. Its length is the number of
    /// queues.
    pub queues: Vec<u16>,
    /// The config space, if it is not the back end's to say.
    pub config_space: Option<Vec<u8>>,
    /// Another back end may take over while the guest runs ([`Request::Replace`]): one that uses its
    /// queues in order, so that what the used ring says is all that it has to know.
    pub replaceable: bool,
}

/// Supervisor to VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Answer with [`Event::Stats`].
    Stats,
    /// Press the power button.
    PowerButton,
    /// Go on with another back end of a device, over the accompanying connection. The guest notices
    /// nothing; what the back end of before had under way is lost.
    Replace {
        /// [`Device::name`] of a replaceable device.
        name: String,
        /// Counts the device's back ends; the first is 0.
        life: u32,
    },
}

/// VMM to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The vCPUs run from now on. Microseconds since the VMM was started: resources received,
    /// kernel loaded, first entry.
    Started {
        /// When guest memory held the kernel.
        loaded_at: u64,
        /// When the first vCPU entered the guest.
        entered_at: u64,
    },
    /// The answer to [`Request::Stats`].
    Stats(Stats),
    /// The back end of a replaceable device vanished, stalled, or broke the protocol. The device
    /// rests until there is another.
    DeviceLost {
        /// [`Device::name`].
        name: String,
        /// Which back end it was, as in [`Request::Replace`].
        life: u32,
        /// What it did.
        reason: String,
    },
    /// A device failed for good: it vanished, stalled, or broke the protocol.
    DeviceFailed {
        /// [`Device::name`].
        name: String,
        /// What it did.
        reason: String,
    },
    /// The machine ended; the process exits with [`End::exit_code`].
    Ended(End),
}

/// Counters of a running machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Exits to the VMM by reason, summed over vCPUs.
    pub exits: BTreeMap<String, u64>,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel reported a panic.
    Panic,
    /// A vCPU shut down: a triple fault.
    TripleFault,
    /// The supervisor's connection closed.
    Killed,
    /// The VMM could not go on; the text says why.
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "the guest powered off",
            Self::Reset => "the guest asked for a reset",
            Self::Panic => "the guest's kernel panicked",
            Self::TripleFault => "a vCPU of the guest shut down (triple fault)",
            Self::Killed => "the machine was killed",
            Self::Failed(reason) => reason,
        })
    }
}

impl End {
    /// The exit code of the VMM process for this end.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::Failed(_) => 1,
            Self::Reset => 10,
            Self::Panic => 11,
            Self::TripleFault => 12,
            Self::Killed => 13,
        }
    }
}
