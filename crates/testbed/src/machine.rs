//! The box itself: QEMU, the servers of its file systems, its vsock device.

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
    agent::{READY_PORT, Ready, Root, Setup, Share, VERSION},
    frame,
};

use crate::{
    build::AGENT,
    error::{Error, Result, file, system},
    launch::Vsock,
    place::Place,
    protocol::Status,
    tools::{QEMU, SETPRIV, Tool, UNSHARE, VIRTIOFSD},
};

/// What the box needs beyond what every machine needs.
const MODULES: &[&str] = &[
    // The reason for the box.
    "kvm_amd", // Network devices for the machines in it.
    "tun",
];

/// How long the box may take to come up. Ten times what a slow host needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The box's memory in MiB: for the files of a few machines and their guests.
const MEMORY: u64 = 4096;

/// The tag of the host's root.
const ROOT_TAG: &str = "root";

/// What is done once in the box: tests run as ordinary users too, and there is no udev; root may
/// limit what its machines take.
const FINISH: [&str; 3] = [
    "/bin/sh",
    "-c",
    "chmod 666 /dev/kvm /dev/net/tun && \
     echo +memory +pids +cpu >/sys/fs/cgroup/cgroup.subtree_control",
];

/// A Unix socket that listens, with one connection in its queue.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) listener: OwnedFd,
    front_end: OwnedFd,
}

impl Listening {
    /// Makes one; its name is gone again when this returns.
    fn new(place: &Place) -> Result<Self> {
        let path = place.join("device");
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

/// A box that is up. Dropping it ends all its processes.
#[derive(Debug)]
pub(crate) struct Machine {
    // In the order in which they are ended.
    qemu: Part,
    vsock: Vsock,
    servers: Vec<Part>,
    pub(crate) status: Status,
}

impl Machine {
    /// Boots the box: the host's root, read-only below, and these directories, written through.
    pub(crate) fn boot(place: &Place, bin_dir: &Path, shares: &[PathBuf]) -> Result<Self> {
        let mut phases = Phases::new();
        let (vmlinux, release, initrd) = prepare(place, bin_dir, shares)?;
        phases.end("prepare");
        let mut servers = Vec::new();
        let mut qemu = qemu(&vmlinux, &initrd);
        let mut fds = Vec::new();
        let root = Path::new("/");
        let directories = [root]
            .into_iter()
            .chain(shares.iter().map(PathBuf::as_path));
        for (index, directory) in directories.enumerate() {
            let listening = Listening::new(place)?;
            servers.push(virtiofsd(directory, &listening.listener)?);
            let tag = tag(index);
            device(
                &mut qemu,
                &format!("vhost-user-fs-pci,queue-size=1024,tag={tag}"),
                &listening.front_end,
            );
            fds.push(listening.front_end);
        }
        let listening = Listening::new(place)?;
        let vsock = Vsock::start(bin_dir, &listening)?;
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
        machine.finish()?;
        phases.end("finish");
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
            .ok_or(Error::TimedOut("the start of the box's agent"))?;
        ready.setup.map_err(Error::Setup)?;
        let (init, agent) = (
            Duration::from_micros(ready.init_at),
            Duration::from_micros(ready.ready_at.saturating_sub(ready.init_at)),
        );
        phases.end_with("firmware", &[("kernel", init), ("agent", agent)]);
        Ok(())
    }

    /// The box's agent.
    pub(crate) fn agent(&self) -> Result<Client> {
        let control = self.vsock.control().try_clone()?;
        Ok(Client::new(move |port| {
            let (ours, theirs) = UnixStream::pair()?;
            control
                .send(&wire::vsock::Request::Connect { port }, &[theirs.as_fd()])
                .map_err(std::io::Error::other)?;
            Ok(ours)
        }))
    }

    /// Does what can only be done from inside.
    fn finish(&self) -> Result<()> {
        let [program, arguments @ ..] = FINISH;
        let mut exec = Exec::new(program.as_bytes());
        for argument in arguments {
            exec.arg(argument.as_bytes());
        }
        match self.agent()?.exec(exec)?.wait()? {
            Exit::Code(0) => Ok(()),
            exit => Err(Error::Setup(format!("`{}`: {exit:?}", FINISH.join(" ")))),
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
fn prepare(
    place: &Place,
    bin_dir: &Path,
    shares: &[PathBuf],
) -> Result<(PathBuf, String, PathBuf)> {
    let cache = Cache::of_user()?;
    let kernel = kernel::resolve(&Source::Distribution, &cache, &mut say)?;
    let modules = [MACHINE_MODULES, MODULES].concat();
    let base = kernel::initramfs(&kernel, &bin_dir.join(AGENT), &modules, &cache)?;
    let shares = shares.iter().enumerate().map(|(index, path)| Share {
        tag: tag(index.saturating_add(1)),
        path: path.to_string_lossy().into_owned(),
        read_only: false,
    });
    let setup = Setup {
        version: VERSION,
        hostname: "testbed".to_owned(),
        root: Root::Overlay {
            tag: ROOT_TAG.to_owned(),
        },
        shares: shares.collect(),
        network: None,
    };
    let mut archive = fs::read(&base).map_err(file("read", &base))?;
    archive.extend(kernel::setup_archive(&setup)?);
    let initrd = place.join("initrd");
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

fn qemu(vmlinux: &Path, initrd: &Path) -> Command {
    let memory = MEMORY.min(host_memory() / 4);
    let mut qemu = tied(&[], QEMU);
    qemu.args(["-accel", "tcg", "-cpu", "EPYC-v1,+svm,+npt"])
        // With two, guest translations of one address get mixed up with the box's own now and then.
        .args(["-smp", "1", "-m", &format!("{memory}M")])
        .args(["-machine", "q35,memory-backend=memory,i8042=off,usb=off"])
        .arg("-object")
        .arg(format!(
            "memory-backend-memfd,id=memory,size={memory}M,share=on"
        ))
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(vmlinux)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &command_line()]);
    qemu
}

/// Serial output is slow under emulation, mitigations are not needed in it, the emulated time stamp
/// counter is the host's. A CPU that is stuck ends the box: see [`crate::Pool`].
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 mitigations=off panic=-1 \
    softlockup_panic=1 tsc=reliable no_timer_check";

/// On a busy host the kernel mismeasures the counter, by up to ten times, and with it the time of
/// every machine in the box; so it is told.
fn command_line() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match tsc_khz(&info) {
        Some(khz) => format!("{COMMAND_LINE} tsc_early_khz={khz}"),
        None => COMMAND_LINE.to_owned(),
    }
}

/// The rate of the host's time stamp counter. "bogomips" is twice that in MHz, for a delay loop
/// waits by the counter and takes it to count twice per loop.
fn tsc_khz(cpuinfo: &str) -> Option<u64> {
    let line = cpuinfo.lines().find(|line| line.starts_with("bogomips"))?;
    let (whole, hundredths) = line.split_once(':')?.1.trim().split_once('.')?;
    let (whole, hundredths): (u64, u64) = (whole.parse().ok()?, hundredths.parse().ok()?);
    Some(
        whole
            .checked_mul(1000)?
            .checked_add(hundredths.checked_mul(10)?)?
            / 2,
    )
}

/// Adds a vhost-user device whose server is behind `front_end`.
fn device(qemu: &mut Command, device: &str, front_end: &OwnedFd) {
    let fd = front_end.as_raw_fd();
    qemu.arg("-chardev")
        .arg(format!("socket,id=c{fd},fd={fd}"))
        .arg("-device")
        .arg(format!("{device},chardev=c{fd}"));
}

/// The host's memory in MiB.
fn host_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    total.map_or(u64::MAX, |kib: u64| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_s_rate_is_half_the_bogomips() {
        let info = "processor\t: 0\nbogomips\t: 5192.25\n";
        assert_eq!(tsc_khz(info), Some(2_596_125));
        assert_eq!(tsc_khz("processor\t: 0\n"), None);
        assert_eq!(tsc_khz("bogomips\t: much\n"), None);
    }

    #[test]
    fn phases_tell_known_parts_from_their_own_time() {
        let mut phases = Phases::new();
        phases.end_with("a", &[("b", Duration::from_secs(5))]);
        assert_eq!(phases.done, [("a".to_owned(), 0), ("b".to_owned(), 5000)]);
    }
}
