//! The inside half: what a component takes from itself before it serves.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use policy::{Policy, Proc};

use crate::layers::{self, Layer};
use crate::sys::{self, Configure};
use crate::{Error, Result};

/// The newest version of Landlock whose rights are handled where the kernel has them.
const NEWEST: ABI = ABI::V7;

/// What may be done below a granted directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read files and list directories.
    Read,
    /// Read files, list directories, execute programs.
    Execute,
    /// Everything but executing programs and controlling devices.
    ReadWrite,
}

/// A directory, or a file, that stays reachable by path.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// It, opened with `O_PATH` or otherwise.
    pub fd: BorrowedFd<'a>,
    /// What for.
    pub access: Access,
}

/// A process whose jail is closed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Confined {
    /// The process's own `/proc/self/fd`, if the policy has it.
    pub proc_self_fd: Option<OwnedFd>,
    /// Every right of Landlock that we know is enforced; false on an older kernel, where those of
    /// the policy's floor are.
    pub landlock_complete: bool,
}

/// Closes the jail. Afterwards the process has what `policy` lists, the descriptors that it holds,
/// and the paths below `grants`.
///
/// To be called once, by the component itself, before it starts a thread and before it reads from
/// anyone it does not trust.
///
/// # Errors
/// [`Error::Confine`] and [`Error::Landlock`]: the process is in an undefined state between free
/// and confined, and must end.
pub fn confine(policy: &'static Policy, grants: &[Grant<'_>]) -> Result<Confined> {
    confine_to(policy, grants, Some(&[]))
}

/// As [`confine`], for a process that shares the host's network. `ports` are those that it may
/// connect TCP sockets to, all if there is no list; a kernel before Landlock's version 4 does not
/// tell them apart.
///
/// # Errors
/// As [`confine`].
pub fn confine_to(
    policy: &'static Policy,
    grants: &[Grant<'_>],
    ports: Option<&[u16]>,
) -> Result<Confined> {
    if cfg!(feature = "test-jail-off") {
        return Ok(Confined {
            proc_self_fd: keep_proc(policy)?,
            landlock_complete: false,
        });
    }
    have_one_thread()?;
    take_name(policy)?;
    let proc_self_fd = keep_proc(policy)?;
    #[cfg(feature = "trace")]
    let record = crate::trace::record(policy)
        .map_err(|error| Error::Confine("make a record of its system calls", "", error))?;
    if layers::closed(Layer::Root) {
        enter_empty_root()?;
    }
    if layers::closed(Layer::Capabilities) {
        drop_capabilities(policy)?;
    }
    gain_no_privileges()?;
    let landlock_complete = layers::closed(Layer::Landlock) && restrict(policy, grants, ports)?;
    hide_memory()?;
    #[cfg(not(feature = "trace"))]
    filter_calls(policy)?;
    #[cfg(feature = "trace")]
    crate::trace::begin(policy, record)
        .map_err(|error| Error::Confine("trace its system calls", "", error))?;
    Ok(Confined {
        proc_self_fd,
        landlock_complete,
    })
}

/// Landlock and capabilities are a thread's own, so there must be no other thread to keep them.
pub(crate) fn have_one_thread() -> Result<()> {
    if sys::is_single_threaded() {
        return Ok(());
    }
    let error = io::Error::other("the process has more than one thread");
    Err(Error::Confine("confine one thread of many", "", error))
}

/// An exec by descriptor leaves the descriptor's number as the name that `top` shows.
fn take_name(policy: &Policy) -> Result<()> {
    CString::new(policy.component)
        .map_err(io::Error::other)
        .and_then(|name| sys::name_thread(&name))
        .map_err(|error| Error::Confine("name the process", "", error))
}

/// Opens the one directory of `/proc` that the policy has, as a mount of its own: `..` ends there.
fn keep_proc(policy: &Policy) -> Result<Option<OwnedFd>> {
    let Some(proc) = policy.proc else {
        return Ok(None);
    };
    let Proc::SelfFd = proc.value;
    let hint = "; /proc must be mounted where crumble runs";
    sys::clone_directory(c"/proc/self/fd")
        .map(Some)
        .map_err(|error| Error::Confine("open /proc/self/fd", hint, error))
}

/// Replaces the root directory by an empty one that cannot be written, and lets go of the old one.
fn enter_empty_root() -> Result<()> {
    // `linux/mount.h`: read-only, no set-user-id, no devices, no execution, no symbolic links.
    const ATTRIBUTES: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x0020_0000;
    let hint = "; a user namespace without rights is what some security modules leave \
                (AppArmor: sysctl kernel.apparmor_restrict_unprivileged_userns)";
    let steps = || -> io::Result<()> {
        let fs = sys::open_file_system(c"tmpfs")?;
        // One inode, the root directory.
        sys::configure(fs.as_fd(), Configure::Value(c"nr_inodes", c"1"))?;
        sys::configure(fs.as_fd(), Configure::Value(c"size", c"4096"))?;
        sys::configure(fs.as_fd(), Configure::Value(c"mode", c"0555"))?;
        sys::configure(fs.as_fd(), Configure::Flag(c"ro"))?;
        sys::configure(fs.as_fd(), Configure::Create)?;
        let root = sys::mount_detached(fs.as_fd(), ATTRIBUTES)?;
        sys::attach_on_root(root.as_fd())?;
        nix::unistd::fchdir(&root)?;
        sys::pivot_into_working_directory()?;
        Ok(nix::unistd::chdir("/")?)
    };
    steps()
        .map_err(|error| Error::Confine("replace the root directory by an empty one", hint, error))
}

/// Drops every capability but the policy's, from the thread and from what an exec could give.
pub(crate) fn drop_capabilities(policy: &Policy) -> Result<()> {
    let keep = policy.capabilities.iter().fold(0_u64, |set, capability| {
        set | 1_u64.checked_shl(capability.value.number()).unwrap_or(0)
    });
    // SECBIT_NOROOT and SECBIT_NO_CAP_AMBIENT_RAISE, locked (`linux/securebits.h`): user 0 gets
    // nothing from an exec.
    const SECURE: u64 = 0b1100_0011;
    let steps = || -> io::Result<()> {
        sys::control(libc::PR_SET_SECUREBITS, SECURE, 0)?;
        for number in 0..64 {
            let known = sys::control(libc::PR_CAPBSET_READ, number, 0).is_ok();
            if known && keep & (1 << number) == 0 {
                sys::control(libc::PR_CAPBSET_DROP, number, 0)?;
            }
        }
        let clear_all = 4; // PR_CAP_AMBIENT_CLEAR_ALL
        sys::control(libc::PR_CAP_AMBIENT, clear_all, 0)?;
        sys::set_capabilities(keep)
    };
    steps().map_err(|error| Error::Confine("drop capabilities", "", error))
}

/// No program that is executed later can have more rights than this process.
pub(crate) fn gain_no_privileges() -> Result<()> {
    sys::control(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
        .map(drop)
        .map_err(|error| Error::Confine("renounce new privileges", "", error))
}

/// Forbids every path but those below `grants`, binding TCP ports and connecting to any but
/// `ports`, abstract sockets and signals to others. Returns whether the kernel enforces all that we
/// know of.
pub(crate) fn restrict(
    policy: &Policy,
    grants: &[Grant<'_>],
    ports: Option<&[u16]>,
) -> Result<bool> {
    let floor = policy.landlock_floor.value;
    // A floor above what we know of is one too, and a kernel without Landlock is told from it below.
    if let Some(found) = sys::landlock_abi().filter(|found| *found < floor) {
        return Err(Error::LandlockFloor { floor, found });
    }
    let apply = || -> std::result::Result<RulesetStatus, RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(version(floor)))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(match ports {
                Some(_) => AccessNet::from_all(NEWEST),
                None => AccessNet::BindTcp.into(),
            })?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        for grant in grants {
            ruleset = ruleset.add_rule(PathBeneath::new(grant.fd, rights(grant.access)))?;
        }
        for port in ports.unwrap_or_default() {
            ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        Ok(ruleset.restrict_self()?.ruleset)
    };
    apply()
        .map(|status| status == RulesetStatus::FullyEnforced)
        .map_err(|error| Error::Landlock(floor, error))
}

/// The version of a number in a policy.
const fn version(number: u32) -> ABI {
    match number {
        0 | 1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        _ => ABI::V7,
    }
}

/// Landlock's rights for `access`.
fn rights(access: Access) -> landlock::BitFlags<AccessFs> {
    match access {
        Access::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::Execute => AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute,
        Access::ReadWrite => {
            let all = AccessFs::from_all(NEWEST);
            all & !(AccessFs::Execute | AccessFs::IoctlDev)
        }
    }
}

/// Neither a debugger nor a dump sees the memory of this process.
fn hide_memory() -> Result<()> {
    sys::control(libc::PR_SET_DUMPABLE, 0, 0)
        .map(drop)
        .map_err(|error| Error::Confine("hide its memory", "", error))
}

/// Ends the process for every system call that the policy does not list. Nothing comes after it.
pub(crate) fn filter_calls(policy: &'static Policy) -> Result<()> {
    sys::install_filter(policy.refuse)
        .and_then(|()| sys::install_filter(policy.allow))
        .map_err(|error| Error::Confine("filter system calls", "", error))
}
