//! The outside half: a program in namespaces of its own.

use std::ffi::{CString, c_char};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use handoff::Channel;
use nix::sys::signal::{SigSet, SigmaskHow};
use policy::{Namespace, Policy};

use crate::child::{self, Plan, Step};
use crate::identity::{self, Maps};
use crate::sys::{self, Cloned};
use crate::{Error, Leaf, Process, Result};

/// The lowest number for descriptors on their way to the child: above those that it places.
const PARKING: i32 = 16;

/// A component to start.
pub struct Launch<'a> {
    /// What it may do.
    pub policy: &'static Policy,
    /// Its program, opened for reading or with `O_PATH`. Others than its owner must be allowed to
    /// execute it.
    pub program: BorrowedFd<'a>,
    /// What `ps` shows: `crumble-dev-fs: root`.
    pub title: &'a str,
    /// Where its standard output and standard error go.
    pub stderr: BorrowedFd<'a>,
    /// Its end of the channel, which becomes descriptor 3.
    pub channel: Channel,
}

/// Starts a component.
///
/// It returns when the program runs. The component ends when the calling *thread* does, see
/// [`Process`].
///
/// # Errors
/// [`Error::Namespaces`] if the kernel does not make the namespaces, [`Error::Start`] if the
/// program cannot be executed, [`Error::Prepare`] if something runs out.
pub fn spawn(launch: Launch<'_>) -> Result<Process> {
    spawn_in(None, &launch)
}

impl Leaf {
    /// As [`spawn`], in this group from the first instruction.
    ///
    /// # Errors
    /// As [`spawn`].
    pub fn spawn(&self, launch: Launch<'_>) -> Result<Process> {
        spawn_in(Some(self.as_fd()), &launch)
    }
}

fn spawn_in(cgroup: Option<BorrowedFd<'_>>, launch: &Launch<'_>) -> Result<Process> {
    let title = CString::new(launch.title)
        .map_err(|error| Error::Prepare("use this title", error.into()))?;
    let argv: [*const c_char; 2] = [title.as_ptr(), ptr::null()];
    let envp: [*const c_char; 1] = [ptr::null()];
    let parked = Parked::new(launch)?;
    let plan = Plan {
        drop_groups: identity::privileged(),
        go: parked.pipes.child_go.as_raw_fd(),
        status: parked.status.as_raw_fd(),
        places: parked.places.each_ref().map(AsRawFd::as_raw_fd),
        program: parked.program.as_raw_fd(),
        argv: &argv,
        envp: &envp,
    };
    let process = clone(launch.policy, cgroup, &plan)?;
    let pipes = parked.into_pipes();
    start(launch.policy, process, pipes, launch.title)
}

/// Descriptors that the child finds, and the host's ends of the two pipes between them.
struct Parked {
    status: OwnedFd,
    places: [OwnedFd; 4],
    program: OwnedFd,
    pipes: Pipes,
}

/// The host's ends: one to let the child go on, one on which it reports.
struct Pipes {
    go: File,
    status: File,
    /// The child's end of `go`: while it is open here, writing to a child that died is no SIGPIPE.
    child_go: OwnedFd,
}

impl Parked {
    /// Duplicates everything to numbers above those that the child places.
    fn new(launch: &Launch<'_>) -> Result<Self> {
        let failed = |error| Error::Prepare("prepare descriptors for a new process", error);
        let null = File::open("/dev/null").map_err(failed)?;
        let (go, host_go) = io::pipe().map_err(failed)?;
        let (host_status, status) = io::pipe().map_err(failed)?;
        Ok(Self {
            status: park(status.as_fd())?,
            places: [
                park(null.as_fd())?,
                park(launch.stderr)?,
                park(launch.stderr)?,
                park(launch.channel.as_fd())?,
            ],
            program: park(launch.program)?,
            pipes: Pipes {
                go: OwnedFd::from(host_go).into(),
                status: OwnedFd::from(host_status).into(),
                child_go: park(go.as_fd())?,
            },
        })
    }

    /// Closes what only the child needs: the status pipe ends when the child's copy does.
    fn into_pipes(self) -> Pipes {
        self.pipes
    }
}

/// A duplicate that is closed by an exec.
fn park(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let failed = |error: io::Error| Error::Prepare("prepare descriptors for a new process", error);
    sys::duplicate_above(fd, PARKING).map_err(failed)
}

/// Makes the process. All signals are blocked meanwhile, so that none is handled in the child.
fn clone(policy: &Policy, cgroup: Option<BorrowedFd<'_>>, plan: &Plan<'_>) -> Result<Process> {
    let flags = policy
        .namespaces
        .iter()
        .fold(0, |flags, namespace| flags | namespace.value.flag());
    let mask = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .map_err(|error| Error::Prepare("block signals", error.into()))?;
    let cloned = sys::clone_process(flags, cgroup);
    if let Ok(Cloned::Child) = cloned {
        child::run(plan);
    }
    mask.thread_set_mask()
        .map_err(|error| Error::Prepare("unblock signals", error.into()))?;
    match cloned {
        Ok(Cloned::Parent(pid, pidfd)) => Ok(Process::new(pid, pidfd)),
        // It ran above and did not come back.
        Ok(Cloned::Child) => sys::exit_now(127),
        Err(source) => Err(Error::Namespaces {
            hint: hint(policy, &source),
            source,
        }),
    }
}

/// Gives the new process its users and limits, lets it go on, and hears whether the program runs.
fn start(policy: &Policy, process: Process, mut pipes: Pipes, title: &str) -> Result<Process> {
    let pid = process.pid();
    Maps::choose(policy, pid)
        .and_then(|maps| maps.write(pid))
        .map_err(|error| Error::Prepare("map users into a new user namespace", error))?;
    set_limits(policy, pid)?;
    // If it died meanwhile, its status says more than a broken pipe does.
    let _ = pipes.go.write_all(&[1, 1]);
    let mut report = Vec::new();
    Read::take(&pipes.status, 5)
        .read_to_end(&mut report)
        .map_err(|error| Error::Prepare("hear from a new process", error))?;
    // Closed without a word by the exec, or by a death that whoever waits for the process sees.
    let [step, errno @ ..] = report.as_slice() else {
        return Ok(process);
    };
    let errno = i32::from_ne_bytes(errno.try_into().unwrap_or_default());
    let step = Step::from_number(*step).unwrap_or(Step::Wait);
    Err(Error::Start {
        title: title.to_owned(),
        step: step.text(),
        hint: start_hint(step, errno),
        source: io::Error::from_raw_os_error(errno),
    })
}

/// Sets the policy's limits on a process, 0 being this one, none above what the host's process itself may have.
pub(crate) fn set_limits(policy: &Policy, pid: i32) -> Result<()> {
    for limit in policy.limits {
        let resource = limit.value.resource.number();
        sys::hard_limit(resource)
            .and_then(|hard| sys::limit_process(pid, resource, limit.value.most.min(hard)))
            .map_err(|error| Error::Prepare("set the limits of a new process", error))?;
    }
    Ok(())
}

/// What to do about a program that does not start.
fn start_hint(step: Step, errno: i32) -> &'static str {
    match (step, errno) {
        (Step::Execute, libc::EACCES) => "; everybody must be allowed to execute it (chmod a+x)",
        (Step::Execute, libc::ENOEXEC) => "; it is not a program for this machine",
        (Step::Execute, libc::ENOENT) => {
            "; the loader that it names does not exist, or it is a script"
        }
        (Step::Descriptors, libc::EINVAL | libc::ENOSYS) => "; Linux 5.11 or newer is needed",
        _ => "",
    }
}

/// What is missing when the namespaces cannot be made.
fn hint(policy: &Policy, error: &io::Error) -> String {
    let has = |name: &str| fs::exists(format!("/proc/self/ns/{name}")).unwrap_or(false);
    let setting = |name: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|text| text.trim() == "0")
    };
    if setting("user/max_user_namespaces") {
        return "user namespaces are switched off: sysctl -w user.max_user_namespaces=10000".into();
    }
    if setting("kernel/unprivileged_userns_clone") && !identity::privileged() {
        return "user namespaces are switched off for ordinary users: \
                sysctl -w kernel.unprivileged_userns_clone=1"
            .into();
    }
    let missing = policy.namespaces.iter().map(|namespace| namespace.value);
    for namespace in missing {
        if fs::exists("/proc/self/ns").unwrap_or(false) && !has(file(namespace)) {
            return format!("this kernel has no {} namespaces", namespace.name());
        }
    }
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "clone3 is missing: Linux before 5.5, or a container whose system-call \
                               filter hides it (podman and docker: --security-opt seccomp=unconfined)"
            .into(),
        Some(libc::EPERM) => "a chroot, or a container's system-call filter or security module, \
                              forbids user namespaces"
            .into(),
        Some(libc::ENOSPC) => "there are too many namespaces, or they are nested too deeply".into(),
        Some(libc::EAGAIN) => "there are too many processes".into(),
        _ => "the kernel gives no reason that is known here".into(),
    }
}

/// The name of a namespace in `/proc/PID/ns`.
const fn file(namespace: Namespace) -> &'static str {
    match namespace {
        Namespace::Mount => "mnt",
        other => other.name(),
    }
}
