//! Between the host and the agent, the guest's init.
//!
//! The agent listens on [`PORT`] and, once it does, connects to [`READY_PORT`] of the host and
//! writes one [`Ready`]. Every connection to [`PORT`] begins with one [`Opening`] from the host.
//! What follows depends on the request:
//!
//! - [`Request::Exec`]: the agent answers with [`Event`]s, the host may send [`Control`]s. The
//!   command starts when every stream that it asked for has been attached. If the host closes
//!   this connection the command's process group gets SIGHUP, then SIGKILL.
//! - [`Request::Attach`]: no frames follow; the connection *is* that stream, and its flow control
//!   is vsock's. Either side ends its direction with `shutdown`.
//! - [`Request::Shutdown`]: the agent answers with [`Event::Acknowledged`], stops everything,
//!   syncs, unmounts and powers off. Where the root's own init is process 1, it asks that to.
//! - [`Request::Ping`]: the agent answers with [`Event::Acknowledged`].
//! - [`Request::Connect`]: the agent answers with [`Event::Acknowledged`] and from then on the
//!   connection is the one to the port, each direction with an end of its own.
//! - [`Request::Listen`]: the agent answers with [`Event::Listening`] and listens until the host
//!   closes this connection.
//! - [`Request::Changes`]: the agent answers with any number of [`Event::Piece`]s, then with
//!   [`Event::Acknowledged`].
//! - [`Request::Accept`]: the agent answers with [`Event::Accepted`] when a program has connected,
//!   and from then on the connection is that program's. A host that closes it before takes none.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The version of this module's messages. A host and an agent of different versions refuse each
/// other with [`Event::Failed`] of [`FailureKind::Version`].
pub const VERSION: u16 = 5;

/// The vsock port that the agent listens on.
pub const PORT: u32 = 1024;

/// The vsock port of the host (CID 2) that the agent announces itself to.
pub const READY_PORT: u32 = 1025;

/// The most bytes of an [`Event::Piece`]. Messages may be larger; one should not hold much.
pub const MAX_PIECE: usize = 256 << 10;

/// Where the initramfs keeps the encoded [`Setup`].
pub const SETUP_PATH: &str = "/crumble/setup";

/// Where the initramfs lists the kernel modules to load before all else: one path a line, in load
/// order.
pub const MODULES_PATH: &str = "/crumble/modules";

/// What the agent makes of the guest before it serves, read from [`SETUP_PATH`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// [`VERSION`] of the host that wrote it.
    pub version: u16,
    /// The guest's host name, 1 to 64 bytes.
    pub hostname: String,
    /// Where the root file system comes from.
    pub root: Root,
    /// Directories that are made in the root unless they exist, for root and with mode 755.
    pub directories: Vec<String>,
    /// Further file systems, mounted in this order after the root.
    pub shares: Vec<Share>,
    /// What is mounted after these, in this order.
    pub mounts: Vec<Mount>,
    /// The network interface; none is set up without.
    pub network: Option<Network>,
    /// The root's own init, an absolute path: it becomes process 1 when all is set up, and the agent
    /// serves as a process beside it. Without, the agent is process 1.
    pub init: Option<String>,
    /// There is a console device: the root's init finds `/dev/hvc0`.
    pub terminal: bool,
}

/// The guest's network interface, set up before a command runs and without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The hardware address that tells it from other interfaces.
    pub mac: [u8; 6],
    /// The largest IP packet in bytes, 1280 to 65520.
    pub mtu: u16,
    /// Its addresses, each with the bits of its subnet's prefix. Without any, the interface is only
    /// brought up.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default routes, at most one for each kind of address.
    pub gateways: Vec<IpAddr>,
    /// For /etc/resolv.conf, in order; without any that file stays as it is.
    pub nameservers: Vec<IpAddr>,
    /// For /etc/resolv.conf, in order.
    pub search: Vec<String>,
    /// For /etc/hosts, beside the guest's own name.
    pub hosts: Vec<(IpAddr, String)>,
}

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// The initramfs itself: nothing is mounted over it.
    Initramfs,
    /// An overlay: what is written goes to `upper`.
    Overlay {
        /// What is below, and only read.
        lower: Lower,
        /// What is above.
        upper: Upper,
    },
    /// A virtiofs, written through to the host.
    Direct {
        /// The tag of the virtiofs device.
        tag: String,
    },
}

impl Root {
    /// A virtiofs, with writes that are gone when the machine is.
    #[must_use]
    pub fn discarding(tag: impl Into<String>) -> Self {
        Self::Overlay {
            lower: Lower::Tag(tag.into()),
            upper: Upper::Memory,
        }
    }
}

/// The lower side of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lower {
    /// A virtiofs.
    Tag(String),
    /// The partitions of a disk from the first on, each an EROFS: the layers of an image, the
    /// topmost last.
    Layers {
        /// The serial number of the disk (virtio 1.2, section 5.2.6: `VIRTIO_BLK_T_GET_ID`).
        serial: String,
        /// How many.
        count: u8,
    },
}

/// The upper side of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upper {
    /// A tmpfs: what is written is gone when the machine is.
    Memory,
    /// An ext4 on the whole of a disk.
    Disk {
        /// The disk's serial number.
        serial: String,
    },
}

/// A virtiofs mounted in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The tag of the virtiofs device.
    pub tag: String,
    /// The absolute path in the guest; made if it does not exist.
    pub path: String,
    /// Mount it read-only (the device refuses writes by itself too).
    pub read_only: bool,
}

/// Something that is no share, at an absolute path that is made if it does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// An empty directory in memory.
    Memory {
        /// Where.
        path: String,
        /// Its limit in bytes; the kernel's own if there is none.
        size: Option<u64>,
    },
    /// A file or directory of an image that is not the root.
    Part {
        /// The image, which is [`Lower::Layers`].
        lower: Lower,
        /// The path in it, absolute; links lead nowhere else.
        source: String,
        /// Where.
        path: String,
        /// Whether it can be written to; what is written is gone with the machine.
        writable: bool,
    },
}

/// The agent is up: sent once, by the agent, to [`READY_PORT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// [`VERSION`] of the agent.
    pub version: u16,
    /// `Err` says what of the [`Setup`] could not be done; the agent serves only after `Ok`.
    pub setup: Result<(), String>,
    /// Microseconds since the kernel's boot (`CLOCK_BOOTTIME`): when init began, and now.
    pub init_at: u64,
    /// See `init_at`.
    pub ready_at: u64,
}

/// The first message of every connection to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// [`VERSION`] of the host.
    pub version: u16,
    /// What this connection is for.
    pub request: Request,
}

/// What a connection to the agent is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Run a command.
    Exec(Exec),
    /// This connection is one standard stream of a command.
    Attach {
        /// The command's [`Exec::session`].
        session: u64,
        /// Which of its streams.
        stream: Stream,
    },
    /// End the machine.
    Shutdown(Shutdown),
    /// Say that you live.
    Ping,
    /// Connect to what listens on a TCP port of the guest's loopback addresses.
    Connect {
        /// The port.
        port: u16,
    },
    /// Listen on a TCP port of the guest's loopback addresses.
    Listen {
        /// Chosen by the host, unique among the machine's listeners.
        listener: u64,
        /// The port; one that is free if 0.
        port: u16,
    },
    /// What the guest has changed of its root since it began, which is an overlay: a layer of an
    /// image (OCI image specification, layer.md), not compressed.
    Changes,
    /// Take one of the connections that programs in the guest made to a listener.
    Accept {
        /// As in [`Request::Listen`].
        listener: u64,
    },
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Chosen by the host, unique among the machine's commands; ties streams to it.
    pub session: u64,
    /// The program, then its arguments. A program without `/` is looked up in `PATH`.
    pub argv: Vec<Vec<u8>>,
    /// Added to (and overriding) the agent's default environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The working directory; the user's home, or `/`, if none.
    pub cwd: Option<Vec<u8>>,
    /// `USER[:GROUP]`, names or numbers; root if none.
    pub user: Option<String>,
    /// Run it on a new terminal of this size. Then [`Stream::Terminal`] is its only stream.
    pub terminal: Option<Size>,
    /// Streams that the host attaches; the others are `/dev/null`. Empty with `terminal`.
    pub streams: Vec<Stream>,
}

/// A standard stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stream {
    /// Host to guest.
    Stdin,
    /// Guest to host.
    Stdout,
    /// Guest to host.
    Stderr,
    /// Both directions of a terminal.
    Terminal,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// How a machine ends when asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shutdown {
    /// Power off.
    PowerOff,
    /// Restart.
    Reboot,
}

/// Host to agent, on the connection of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Send this Linux signal number to the command's process group.
    Signal(i32),
    /// The terminal has a new size.
    Resize(Size),
}

/// Agent to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The command runs, with this process id in the guest.
    Started {
        /// The guest's process id.
        pid: u32,
    },
    /// The command could not be started, or the request not be served.
    Failed(Failure),
    /// The command ended. Its output streams have been written before this is sent.
    Exited(Exit),
    /// Done, or begun.
    Acknowledged,
    /// A part of what was asked for, at most [`MAX_PIECE`] bytes.
    Piece(Vec<u8>),
    /// A listener is there.
    Listening {
        /// Its port.
        port: u16,
    },
    /// A program connected to a listener.
    Accepted {
        /// The program's end.
        from: SocketAddr,
    },
}

/// Why a command did not start, or a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure, for exit codes.
    pub kind: FailureKind,
    /// What failed and on what, for people.
    pub message: String,
}

/// The kinds of [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// No such program.
    NotFound,
    /// The program may not be executed, or is not executable.
    NotExecutable,
    /// Host and agent speak different versions.
    Version,
    /// Nobody listens on the port.
    ConnectionRefused,
    /// Somebody else listens on the port.
    AddressInUse,
    /// Anything else: no such user, no such working directory, out of memory.
    Other,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// With this status, 0 to 255.
    Code(u8),
    /// By this Linux signal number.
    Signal(i32),
}
