//! The host's side: starts this binary in a jail and hears what became of its orders.

use std::fs::{File, Permissions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicI32, AtomicU16, Ordering};
use std::time::Duration;

use handoff::Channel;
use jailer::{Exit, Launch, Process};
use libtest_mimic::Failed;
use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use serde::{Deserialize, Serialize};

use crate::layers::{self, Layer};

/// What the component is called, and recognises itself by.
pub(crate) const TITLE: &str = "hostile-stand-in";

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);

/// The process id of a component that lives as long as the tests do.
pub(crate) static SIBLING: AtomicI32 = AtomicI32::new(0);

/// TCP ports of the host on which somebody listens as long as the tests run.
pub(crate) static GRANTED_PORT: AtomicU16 = AtomicU16::new(0);
pub(crate) static PORT: AtomicU16 = AtomicU16::new(0);

/// Every component that has a policy.
pub(crate) const COMPONENTS: [&str; 9] = [
    "vmm",
    "dev-vsock",
    "dev-fs",
    "dev-net",
    "dev-block",
    "dev-console",
    "dev-balloon",
    "dialer",
    "unpack",
];

/// What the component is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Whose policy it gets.
    pub(crate) component: String,
    /// Layers to leave out, to see whether the others hold.
    pub(crate) without: Vec<Layer>,
    /// The host's process id.
    pub(crate) host: i32,
    /// Another component's process id.
    pub(crate) sibling: i32,
    /// The directory around the shared one.
    pub(crate) outside: String,
    /// A TCP port of the host that the dialer may connect to.
    pub(crate) granted_port: u16,
    /// One that it may not.
    pub(crate) port: u16,
}

impl Order {
    /// A component in the whole jail, but for `without`.
    pub(crate) fn new(component: &str, without: &[Layer]) -> Result<Self, Failed> {
        Ok(Self {
            component: component.to_owned(),
            without: without.to_vec(),
            host: i32::try_from(std::process::id())?,
            sibling: SIBLING.load(Ordering::Relaxed),
            outside: String::new(),
            granted_port: GRANTED_PORT.load(Ordering::Relaxed),
            port: PORT.load(Ordering::Relaxed),
        })
    }
}

/// What it is to do once the jail is closed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Deed {
    /// One of `attempts`, by name.
    Attempt(String),
    /// One of `duties`, by name.
    Duty(String),
    /// Nothing; answer.
    Nothing,
}

/// What became of a deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It worked.
    Done,
    /// It failed with this error.
    Refused(i32),
    /// The process was killed by this signal.
    Killed(i32),
}

/// A component in its jail.
pub(crate) struct Jailed {
    pub(crate) process: Process,
    channel: Channel,
    log: File,
    /// Holds `shared`, which the component gets as `root`, and `secret` beside it.
    pub(crate) directory: tempfile::TempDir,
    /// `socket` and `datagram` in it.
    _sockets: (UnixListener, UnixDatagram),
}

impl Jailed {
    /// Starts this binary under the policy of `order`.
    pub(crate) fn start(order: &Order) -> Result<Self, Failed> {
        let policy = layers::policy(&order.component, &order.without).ok_or("no such policy")?;
        let (host, component) = Channel::pair()?;
        let (directory, sockets) = furnish()?;
        let order = Order {
            outside: directory
                .path()
                .to_str()
                .ok_or("a strange path")?
                .to_owned(),
            ..order.clone()
        };
        let root = File::open(directory.path().join("shared"))?;
        let program = File::open(std::env::current_exe()?)?;
        let (log, stderr) = std::io::pipe()?;
        let process = jailer::spawn(Launch {
            policy,
            program: program.as_fd(),
            title: TITLE,
            stderr: stderr.as_fd(),
            channel: component,
        })?;
        drop(stderr);
        let mut jailed = Self {
            process,
            channel: host,
            log: File::from(std::os::fd::OwnedFd::from(log)),
            directory,
            _sockets: sockets,
        };
        let stream = nix::sys::socket::socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let kvm = open_kvm().ok().filter(|_| order.component == "vmm");
        let mut resources: Vec<(String, BorrowedFd<'_>)> = vec![
            ("root".to_owned(), root.as_fd()),
            ("stream".to_owned(), stream.as_fd()),
        ];
        resources.extend(kvm.as_ref().map(|kvm| ("kvm".to_owned(), kvm.as_fd())));
        handoff::start(&jailed.channel, &order, &resources)?;
        match handoff::await_ready(&jailed.channel, SOON) {
            Ok(()) => Ok(jailed),
            Err(error) => {
                let exit = jailed.process.wait(Some(SOON))?;
                Err(format!("{error}; {exit:?}; {}", jailed.log()?).into())
            }
        }
    }

    /// Has it do something.
    pub(crate) fn perform(&mut self, deed: &Deed) -> Result<Outcome, Failed> {
        self.channel.send(deed, &[])?;
        self.channel.set_timeout(Some(SOON))?;
        match self.channel.receive::<i32>()? {
            Some((0, _)) => Ok(Outcome::Done),
            Some((errno, _)) => Ok(Outcome::Refused(errno)),
            None => match self.process.wait(Some(SOON))? {
                Some(Exit::Signal(signal)) => Ok(Outcome::Killed(signal)),
                other => Err(format!("it ended: {other:?}: {}", self.log()?).into()),
            },
        }
    }

    /// What it wrote to standard error. To be called once it ended.
    pub(crate) fn log(&mut self) -> Result<String, Failed> {
        let mut text = String::new();
        self.log.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// The host's `/dev/kvm`, if it has one and this user may open it.
pub(crate) fn open_kvm() -> std::io::Result<File> {
    File::options().read(true).write(true).open("/dev/kvm")
}

/// A directory with things that anybody may use: only the jail is in the way.
fn furnish() -> Result<(tempfile::TempDir, (UnixListener, UnixDatagram)), Failed> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("shared"))?;
    std::fs::create_dir(path("beside"))?;
    for name in ["shared/inside", "beside/file", "secret"] {
        std::fs::write(path(name), "inside")?;
        std::fs::set_permissions(path(name), Permissions::from_mode(0o666))?;
    }
    std::os::unix::fs::symlink(path("secret"), path("shared/link"))?;
    for name in ["", "shared", "beside"] {
        std::fs::set_permissions(path(name), Permissions::from_mode(0o777))?;
    }
    let listener = UnixListener::bind(path("socket"))?;
    let datagrams = UnixDatagram::bind(path("datagram"))?;
    for name in ["socket", "datagram"] {
        std::fs::set_permissions(path(name), Permissions::from_mode(0o666))?;
    }
    Ok((directory, (listener, datagrams)))
}

/// Starts a component without some layers, has it do one thing, and ends it.
pub(crate) fn perform(component: &str, without: &[Layer], deed: &Deed) -> Result<Outcome, Failed> {
    Jailed::start(&Order::new(component, without)?)?.perform(deed)
}
