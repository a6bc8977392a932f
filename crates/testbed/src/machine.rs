//! A machine under QEMU, as the box is: QEMU, the servers of its file systems, its vsock device.

use std::{
    fs,
    io::Write,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent_client::{Client, Exec, Exit};
use kernel::{Cache, MACHINE_MODULES, Source};
use rustix::io::{FdFlags, fcntl_setfd};
use wire::{
    agent::{Network, READY_PORT, Ready, Root, Setup, Share, VERSION},
    frame,
};

use crate::{
    build::AGENT,
    error::{Error, Result, file, system},
    launch::Vsock,
    protocol::Status,
    tools::{QEMU, SETPRIV, Tool, UNSHARE, VIRTIOFSD},
};

/// How long a machine may take to come up. Ten times what a slow host needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tag of the host's root.
const ROOT_TAG: &str = "root";

/// What a machine is made of.
#[derive(Debug, Clone, Copy)]
pub struct Design<'a> {
    /// For sockets and the initramfs. Nobody else may enter it.
    pub directory: &'a Path,
    /// Where the product's binaries are.
    pub bin_dir: &'a Path,
    /// Its host name.
    pub name: &'a str,
    /// Its memory in MiB.
    pub memory: u64,
    /// What its kernel needs beyond what every machine needs.
    pub modules: &'a [&'a str],
    /// Directories that it sees at their own paths, and may write to.
    pub shares: &'a [PathBuf],
    /// What its agent makes of the network device, if it has one.
    pub network: Option<&'a Network>,
    /// What its kernel is told beyond what every one is.
    pub command_line: &'a str,
    /// What QEMU is told besides: the accelerator, further devices.
    pub qemu: &'a [&'a str],
}

/// A Unix socket that listens, with one connection in its queue.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) listener: OwnedFd,
    front_end: OwnedFd,
}

impl Listening {
    /// Makes one; its name is gone again when this returns.
    fn new(directory: &Path) -> Result<Self> {
        let path = directory.join("device");
        let listener = UnixListener::bind(&path).map_err(file("listen at", &path))?;
        let front_end = UnixStream::connect(&path);
        let _ = fs::remove_file(&path);
        Ok(Self {
            listener: listener.into(),
            front_end: front_end.map_err(file("connect to", &path))?.into(),
        })
    }
}

/// A child that ends with this value, and with the thread that started it.
#[derive(Debug)]
struct Part {
    tool: Tool,
    child: Child,
}

impl Part {
    /// Starts `command`, which inherits these descriptors under their numbers.
    fn start(tool: Tool, mut command: Command, fds: &[&OwnedFd]) -> Result<Self> {
        for fd in fds {
            fcntl_setfd(fd, FdFlags::empty()).map_err(system("pass a descriptor on"))?;
        }
        let child = command.stdin(Stdio::null()).spawn();
        for fd in fds {
            fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(system("keep a descriptor"))?;
        }
        let child = child.map_err(|source| Error::Spawn {
            program: tool.program.to_owned(),
            source,
        })?;
        Ok(Self { tool, child })
    }

    fn check(&mut self) -> Result<()> {
        match self.child.try_wait().map_err(system("watch a process"))? {
            None => Ok(()),
            Some(status) => Err(Error::Ended {
                program: self.tool.program.to_owned(),
                status: status.to_string(),
            }),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine that is up. Dropping it ends all its processes, and so does the end of the thread that
/// booted it.
#[derive(Debug)]
pub struct Machine {
    // In the order in which they are ended.
    qemu: Part,
    vsock: Vsock,
    servers: Vec<Part>,
    pub(crate) status: Status,
}

impl Machine {
    /// Boots it: its root is this host's, read-only below.
    ///
    /// # Errors
    /// What is missing, or what did not start.
    pub fn boot(design: &Design<'_>) -> Result<Self> {
        let mut phases = Phases::new();
        let (vmlinux, release, initrd) = prepare(design)?;
        phases.end("prepare");
        let mut servers = Vec::new();
        let mut qemu = qemu(design, &vmlinux, &initrd);
        let mut fds = Vec::new();
        let root = Path::new("/");
        let directories = [root]
            .into_iter()
            .chain(design.shares.iter().map(PathBuf::as_path));
        for (index, directory) in directories.enumerate() {
            let listening = Listening::new(design.directory)?;
            servers.push(virtiofsd(directory, &listening.listener)?);
            let tag = tag(index);
            device(
                &mut qemu,
                &format!("vhost-user-fs-pci,queue-size=1024,tag={tag}"),
                &listening.front_end,
            );
            fds.push(listening.front_end);
        }
        let listening = Listening::new(design.directory)?;
        let vsock = Vsock::start(design.bin_dir, &listening)?;
        device(&mut qemu, "vhost-user-vsock-pci", &listening.front_end);
        fds.push(listening.front_end);
        phases.end("servers");
        let qemu = Part::start(QEMU, qemu, &fds.iter().collect::<Vec<_>>())?;
        drop(fds);
        let mut machine = Self {
            status: Status {
                keeper: std::process::id(),
                qemu: qemu.child.id(),
                kernel: release,
                phases: Vec::new(),
            },
            qemu,
            vsock,
            servers,
        };
        machine.await_ready(&mut phases)?;
        machine.status.phases = phases.done;
        Ok(machine)
    }

    /// Waits for the agent, and tells from what it says where the time went.
    fn await_ready(&self, phases: &mut Phases) -> Result<()> {
        let (port, stream) = self.vsock.accept(PATIENCE)?;
        if port != READY_PORT {
            return Err(Error::Setup("a connection to the wrong port".into()));
        }
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(system("set a time limit"))?;
        let ready: Ready = frame::read(&stream)
            .map_err(agent_client::Error::Wire)?
            .ok_or(Error::TimedOut("the start of the machine's agent"))?;
        ready.setup.map_err(Error::Setup)?;
        let (init, agent) = (
            Duration::from_micros(ready.init_at),
            Duration::from_micros(ready.ready_at.saturating_sub(ready.init_at)),
        );
        phases.end_with("firmware", &[("kernel", init), ("agent", agent)]);
        Ok(())
    }

    /// Its agent.
    ///
    /// # Errors
    /// If there are no file descriptors left.
    pub fn agent(&self) -> Result<Client> {
        let door = self.vsock.door().try_clone()?;
        Ok(Client::new(move |port| {
            let (ours, theirs) = UnixStream::pair()?;
            door.connect(port, theirs.as_fd())
                .map_err(std::io::Error::other)?;
            Ok(ours)
        }))
    }

    /// Runs a command in it that must succeed.
    pub(crate) fn finish(&self, [program, arguments @ ..]: &[&str; 3]) -> Result<()> {
        let mut exec = Exec::new(program.as_bytes());
        for argument in arguments {
            exec.arg(argument.as_bytes());
        }
        match self.agent()?.exec(exec)?.wait()? {
            Exit::Code(0) => Ok(()),
            exit => Err(Error::Setup(format!("`{program}`: {exit:?}"))),
        }
    }

    pub(crate) const fn vsock(&self) -> &Vsock {
        &self.vsock
    }

    /// Whether all parts are there; an error says which is not.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.qemu.check()?;
        self.vsock.check()?;
        self.servers.iter_mut().try_for_each(Part::check)
    }
}

/// Times one step after the other.
struct Phases {
    since: Instant,
    done: Vec<(String, u64)>,
}

impl Phases {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            done: Vec::new(),
        }
    }

    fn end(&mut self, name: &str) {
        self.end_with(name, &[]);
    }

    /// Ends a phase whose last parts are known from elsewhere.
    fn end_with(&mut self, name: &str, parts: &[(&str, Duration)]) {
        let known: Duration = parts.iter().map(|(_, time)| *time).sum();
        let own = self.since.elapsed().saturating_sub(known);
        for (name, time) in [(name, own)].iter().chain(parts) {
            let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            self.done.push(((*name).to_owned(), time));
        }
        self.since = Instant::now();
    }
}

/// The kernel, its release, and the whole initramfs.
fn prepare(design: &Design<'_>) -> Result<(PathBuf, String, PathBuf)> {
    let cache = Cache::of_user()?;
    let kernel = kernel::resolve(&Source::Distribution, &cache, &mut say)?;
    let modules = [MACHINE_MODULES, design.modules].concat();
    let base = kernel::initramfs(&kernel, &design.bin_dir.join(AGENT), &modules, &cache)?;
    let shares = design.shares.iter().enumerate();
    let shares = shares.map(|(index, path)| Share {
        tag: tag(index.saturating_add(1)),
        path: path.to_string_lossy().into_owned(),
        read_only: false,
    });
    let setup = Setup {
        version: VERSION,
        hostname: design.name.to_owned(),
        root: Root::discarding(ROOT_TAG),
        directories: Vec::new(),
        shares: shares.collect(),
        mounts: Vec::new(),
        network: design.network.cloned(),
        init: None,
        terminal: false,
    };
    let mut archive = fs::read(&base).map_err(file("read", &base))?;
    archive.extend(kernel::setup_archive(&setup)?);
    let initrd = design.directory.join("initrd");
    fs::write(&initrd, archive).map_err(file("write", &initrd))?;
    Ok((kernel.vmlinux, kernel.release, initrd))
}

/// A line in the keeper's log.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "testbed: {line}");
}

fn tag(index: usize) -> String {
    match index {
        0 => ROOT_TAG.to_owned(),
        _ => format!("share{index}"),
    }
}

/// `program` so that the kernel kills it when the thread that starts it ends.
fn tied(prefix: &[&str], program: Tool) -> Command {
    let words = [prefix, &[SETPRIV.program, "--pdeathsig", "KILL", "--"]].concat();
    let (first, rest) = words.split_first().unwrap_or((&SETPRIV.program, &[]));
    let mut command = Command::new(first);
    command.args(rest).arg(program.program);
    command
}

fn virtiofsd(directory: &Path, listener: &OwnedFd) -> Result<Part> {
    // It wants to be root, which an ordinary user is in a namespace. Entering one clears the tie
    // to the parent, so that is made after.
    let prefix: &[&str] = match rustix::process::geteuid().is_root() {
        true => &[],
        false => &[UNSHARE.program, "--user", "--map-root-user", "--"],
    };
    let mut command = tied(prefix, VIRTIOFSD);
    command
        .arg(format!("--fd={}", listener.as_raw_fd()))
        .arg("-o")
        .arg(format!("source={}", directory.display()))
        .args([
            "-o",
            "cache=auto",
            "-o",
            "sandbox=chroot",
            "-o",
            "log_level=warn",
        ]);
    Part::start(VIRTIOFSD, command, &[listener])
}

fn qemu(design: &Design<'_>, vmlinux: &Path, initrd: &Path) -> Command {
    let memory = design.memory;
    let mut qemu = tied(&[], QEMU);
    qemu.args(["-smp", "1", "-m", &format!("{memory}M")])
        .args(["-machine", "q35,memory-backend=memory,i8042=off,usb=off"])
        .arg("-object")
        .arg(format!(
            "memory-backend-memfd,id=memory,size={memory}M,share=on"
        ))
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .args(design.qemu)
        .arg("-kernel")
        .arg(vmlinux)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        .arg(format!("{COMMAND_LINE} {}", design.command_line));
    qemu
}

/// Serial output is slow under emulation.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 tsc=reliable no_timer_check";

/// Adds a vhost-user device whose server is behind `front_end`.
fn device(qemu: &mut Command, device: &str, front_end: &OwnedFd) {
    let fd = front_end.as_raw_fd();
    qemu.arg("-chardev")
        .arg(format!("socket,id=c{fd},fd={fd}"))
        .arg("-device")
        .arg(format!("{device},chardev=c{fd}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_tell_known_parts_from_their_own_time() {
        let mut phases = Phases::new();
        phases.end_with("a", &[("b", Duration::from_secs(5))]);
        assert_eq!(phases.done, [("a".to_owned(), 0), ("b".to_owned(), 5000)]);
    }
}
