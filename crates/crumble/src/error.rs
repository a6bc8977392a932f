//! What can go wrong with a machine, in words for whoever started it.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use agent_client::FailureKind;

/// What can go wrong with a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The description of the machine makes no sense.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// An image cannot be had.
    #[error(transparent)]
    Image(Box<image::Error>),
    /// A Dockerfile could not be built.
    #[error(transparent)]
    Build(Box<build::Error>),
    /// What a machine writes, or a volume, cannot be kept.
    #[error("cannot {action} {}", path.display())]
    Kept {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is no volume of this name.
    #[error("there is no volume {0}; `crumble volume ls` lists them")]
    NoVolume(spec::Name),
    /// A machine has it.
    #[error("the volume {0} is in use; end the machines that have it first")]
    VolumeInUse(spec::Name),
    /// There is nowhere to keep machines.
    #[error(
        "there is no place for machines and volumes: set HOME, or XDG_DATA_HOME, to an absolute path"
    )]
    NoHome,
    /// There is nothing that makes a disk's file system.
    #[error(
        "what a machine writes is kept in an ext4, and there is no mkfs.ext4 to make one; \
        `apt-get install e2fsprogs` brings it"
    )]
    NoMkfs,
    /// A disk that another machine has.
    #[error("the disk {} is in use; one machine at a time may write to it, or several read it", .0.display())]
    DiskInUse(PathBuf),
    /// A file that is no disk.
    #[error("{} cannot be a disk: {reason}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A back end that is somebody else's cannot be reached.
    #[error("cannot connect to the device {device}; does its back end listen there?")]
    External {
        /// The device.
        device: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program that is to be a back end cannot be started in its jail.
    #[error("cannot start the program of device {device}")]
    Program {
        /// The device.
        device: String,
        /// What is wrong with the program or its policy.
        source: foreign::Error,
    },
    /// Another machine of this name runs.
    #[error("the machine {0} is running; end it first, or give another name")]
    KeptInUse(spec::Name),
    /// Nothing is kept under this name.
    #[error("there is no machine {0}; `crumble run --name {0} IMAGE` makes one")]
    NoKept(spec::Name),
    /// A machine that is kept was made of another image.
    #[error(
        "the machine {name} was made of {first}: run it with that, or remove it with \
        `crumble rm {name}`"
    )]
    KeptImage {
        /// The machine.
        name: spec::Name,
        /// What it was made of.
        first: String,
    },
    /// Only what is written over an image can be kept.
    #[error(
        "a machine is kept over an OCI image only, and {0} is none: it may change below what is kept"
    )]
    NotKept(spec::Image),
    /// What a machine has written cannot be made a layer.
    #[error("cannot keep what was written as a layer")]
    Changes(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The root of an image cannot be written as an archive.
    #[error("cannot write the root of {name} as an archive")]
    Export {
        /// The image.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An unpacked layer cannot be read.
    #[error("a layer in the store cannot be read; `crumble image rm` and a new pull mend it")]
    Layer(#[from] erofs::Error),
    /// The layers of an image are no disk.
    #[error("this image cannot be run")]
    Layers(#[from] crate::partitions::Error),
    /// This host cannot run machines.
    #[error(transparent)]
    Kvm(#[from] crate::host::KvmError),
    /// The machine wants more memory than the host has.
    #[error("the machine wants {wanted}, but this host has {} MiB of memory", available >> 20)]
    HostMemory {
        /// What was asked for.
        wanted: spec::Memory,
        /// What the host has in all, in bytes.
        available: u64,
    },
    /// A directory that the guest is to see cannot be opened.
    #[error("cannot share {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is no kernel to boot.
    #[error("no kernel for the guest")]
    Kernel(#[source] kernel::Error),
    /// There is no static busybox.
    #[error("the busybox image needs a static busybox")]
    Busybox(#[source] kernel::Error),
    /// The cache could not be written.
    #[error("cannot write to the cache, {}", path.display())]
    Cache {
        /// What was to be written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file could not be opened or made.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A port cannot be published.
    #[error("cannot publish {port}{hint}")]
    Publish {
        /// The host's address and port, and the protocol.
        port: String,
        /// What would mend it.
        hint: String,
        /// The system's reason.
        source: io::Error,
    },
    /// More ports than can be handed over.
    #[error(
        "{count} ports are to be published, but a machine has at most {most}; publish fewer, or give \
         it a TAP device, where all its ports are reached"
    )]
    TooManyPorts {
        /// How many were asked for.
        count: usize,
        /// How many there can be.
        most: usize,
    },
    /// A TAP device cannot be used.
    #[error("cannot use the TAP device {name}{hint}")]
    Tap {
        /// The interface.
        name: String,
        /// What would mend it.
        hint: String,
        /// The system's reason.
        source: io::Error,
    },
    /// TAP devices cannot be made, removed or listed.
    #[error("cannot {what}{hint}")]
    TapSetup {
        /// What was to be done.
        what: String,
        /// What would mend it.
        hint: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The caller may not configure networks.
    #[error("cannot {what} without root's rights or CAP_NET_ADMIN")]
    NetAdmin {
        /// What was to be done.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A network device without a network.
    #[error("there is nothing to serve without a network; give user or tap=NAME")]
    NothingToServe,
    /// A record of packets where there are none.
    #[error("there are no packets to record without a network; leave out --pcap or --network none")]
    NothingToRecord,
    /// The machine did not start, or ended.
    #[error(transparent)]
    Machine(Arc<supervisor::Error>),
    /// The machine ended before what was done in it.
    #[error("the machine ended first: {0}")]
    Ended(wire::vmm::End),
    /// A command could not be run, or the conversation with the guest failed.
    #[error(transparent)]
    Agent(#[from] agent_client::Error),
    /// A stream of a command failed.
    #[error("a stream of the command failed")]
    Stream(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl From<supervisor::Error> for Error {
    fn from(error: supervisor::Error) -> Self {
        Self::Machine(Arc::new(error))
    }
}

impl From<Arc<supervisor::Error>> for Error {
    fn from(error: Arc<supervisor::Error>) -> Self {
        Self::Machine(error)
    }
}

/// How long a machine may take to end after its streams have: the VMM's last word and the
/// processes' ends arrive one after the other.
const END_WITHIN: Duration = Duration::from_secs(2);

impl Error {
    /// What the agent's silence really means, if the machine has ended.
    pub(crate) fn of_agent(error: agent_client::Error, machine: &supervisor::Machine) -> Self {
        if !error.is_loss() {
            return error.into();
        }
        match machine.wait_timeout(END_WITHIN) {
            Some(Err(cause)) => cause.into(),
            Some(Ok(end)) => Self::Ended(end),
            None => error.into(),
        }
    }

    /// The exit code of a program whose machine failed.
    pub const FAILED: u8 = 125;

    /// The exit code of a program whose purpose this ends, as podman, docker and the shells have it: 127
    /// if a command does not exist, 126 if it cannot be executed, [`Error::FAILED`] otherwise.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.refusal() {
            Some(FailureKind::NotFound) => 127,
            Some(FailureKind::NotExecutable) => 126,
            _ => Self::FAILED,
        }
    }

    /// The guest's reason why a command did not start, if this is one.
    #[must_use]
    pub const fn refusal(&self) -> Option<FailureKind> {
        match self {
            Self::Agent(agent_client::Error::Refused { kind, .. }) => Some(*kind),
            _ => None,
        }
    }
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Self {
        Self::Image(Box::new(error))
    }
}

impl From<build::Error> for Error {
    fn from(error: build::Error) -> Self {
        Self::Build(Box::new(error))
    }
}
