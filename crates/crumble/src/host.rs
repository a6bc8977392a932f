//! What this host has for machines.

mod network;

use std::{
    fs::{self, OpenOptions},
    io,
    os::fd::OwnedFd,
};

use hv_kvm::Host;
use jailer::Delegation;
use nix::unistd::{getegid, geteuid};
use spec::Memory;

use crate::Error;

pub(crate) use network::unprivileged_port_start;

/// Why there is no KVM to be had.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The host's kernel does not offer it.
    #[error(
        "this host has no /dev/kvm: its CPU's virtualization is off in the firmware, the kvm \
         module is not loaded, or this is a virtual machine or container without it; \
         `crumble doctor` says more"
    )]
    Absent,
    /// The caller may not use it.
    #[error(
        "/dev/kvm may not be opened by this user: `sudo usermod -aG kvm $USER` and a new login \
         mend that, or `sudo setfacl -m u:$USER:rw /dev/kvm` until the next boot"
    )]
    Denied,
    /// It is there, but something else is wrong with it.
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// It emulates the guest's kernel mode and cannot run Linux.
    #[error(
        "this host's KVM cannot run Linux: {0}; bare-metal micro-guests run on it, and from the \
         source tree `cargo xtask run` runs Linux guests in an emulated box"
    )]
    Emulated(String),
}

/// Opens `/dev/kvm`.
pub(crate) fn open_kvm() -> Result<OwnedFd, KvmError> {
    // Only where it is plausible: trying takes milliseconds.
    if hv_kvm::may_be_emulated()
        && let Host::Emulated { why } = hv_kvm::probe()
    {
        return Err(KvmError::Emulated(why));
    }
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KvmError::Absent,
        io::ErrorKind::PermissionDenied => KvmError::Denied,
        _ => KvmError::Open(error),
    })?;
    Ok(file.into())
}

/// Refuses a machine that could never have its memory. One that merely finds it taken is the
/// kernel's to judge.
pub(crate) fn check_memory(wanted: Memory) -> Result<(), Error> {
    let available = total_memory();
    if available.is_some_and(|available| wanted.bytes() > available) {
        let available = available.unwrap_or_default();
        return Err(Error::HostMemory { wanted, available });
    }
    Ok(())
}

/// The host's memory in bytes (proc_meminfo(5)).
fn total_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Whose files are whose on a share. What root starts has all the host's users; an ordinary
/// user's device has just that one.
pub(crate) fn ids(read_only: bool) -> wire::fs::Ids {
    use wire::fs::{Ids, Owner};
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        return Ids::Same;
    }
    if read_only {
        let owner = Owner {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
        };
        Ids::Single {
            owner,
            others: Owner::ROOT,
        }
    } else {
        Ids::Single {
            owner: Owner::ROOT,
            others: Owner::NOBODY,
        }
    }
}

/// One thing that machines need of a host, and how this host stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: &'static str,
    /// How good that is.
    pub verdict: Verdict,
    /// How it stands, and what would mend it.
    pub detail: String,
}

/// How good a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Machines run, with less.
    Poor,
    /// Machines do not run.
    Missing,
}

/// Looks at all that machines need.
#[must_use]
pub fn examine() -> Vec<Finding> {
    vec![
        kvm(),
        user_namespaces(),
        landlock(),
        cgroups(),
        user(),
        programs(),
        kernel(),
        network::name_servers(),
        network::ping(),
        network::tap_devices(),
    ]
}

fn kvm() -> Finding {
    let (verdict, detail) = match hv_kvm::probe() {
        Host::Native => (Verdict::Good, "runs stock kernels".to_owned()),
        Host::Emulated { why } => (Verdict::Missing, KvmError::Emulated(why).to_string()),
        Host::Absent { why } => (Verdict::Missing, format!("{why}; {}", KvmError::Absent)),
        Host::Denied { why } => (Verdict::Missing, format!("{why}; {}", KvmError::Denied)),
    };
    Finding {
        what: "KVM",
        verdict,
        detail,
    }
}

fn user_namespaces() -> Finding {
    let off = |path, value: &str| {
        let text = fs::read_to_string(path).ok()?;
        (text.trim() == value).then(|| format!("off: {path} is {value}"))
    };
    let reason = off("/proc/sys/user/max_user_namespaces", "0")
        .or_else(|| off("/proc/sys/kernel/unprivileged_userns_clone", "0"))
        .or_else(|| {
            off(
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
            )
        });
    let (verdict, detail) = match reason {
        None => (
            Verdict::Good,
            "every process of a machine gets its own".to_owned(),
        ),
        Some(reason) if geteuid().is_root() => (Verdict::Poor, reason),
        Some(reason) => (
            Verdict::Missing,
            format!("{reason}; `sudo sysctl` changes it, and without them nothing is started"),
        ),
    };
    Finding {
        what: "user namespaces",
        verdict,
        detail,
    }
}

fn landlock() -> Finding {
    let (verdict, detail) = match jailer::landlock_abi() {
        Some(abi) => (Verdict::Good, format!("ABI {abi}")),
        None => (
            Verdict::Missing,
            "the kernel has it not, or it is not in the lsm= boot parameter".to_owned(),
        ),
    };
    Finding {
        what: "Landlock",
        verdict,
        detail,
    }
}

fn cgroups() -> Finding {
    let (verdict, detail) = match Delegation::find() {
        Some(found) => {
            let what = if found.limits_cpu() {
                "memory, processes and CPU time"
            } else {
                "memory and processes"
            };
            let place = found.directory().display();
            (Verdict::Good, format!("{what} are limited below {place}"))
        }
        None => (
            Verdict::Poor,
            "none may be made here, so only resource limits bound what a process of a machine \
             takes; `systemd-run --user --scope crumble ...` is where they may, or a group whose \
             cgroup.subtree_control has memory, pids and cpu and belongs to you"
                .to_owned(),
        ),
    };
    Finding {
        what: "cgroups",
        verdict,
        detail,
    }
}

fn user() -> Finding {
    let (verdict, detail) = if geteuid().is_root() {
        let detail = "root: shares keep every owner, devices run as users of their own";
        (Verdict::Good, detail)
    } else {
        let detail = "an ordinary user: what a guest writes to a share belongs to this user, and \
                      it cannot give files to others";
        (Verdict::Poor, detail)
    };
    Finding {
        what: "user",
        verdict,
        detail: detail.to_owned(),
    }
}

fn programs() -> Finding {
    const PROGRAMS: [&str; 10] = [
        "crumble-vmm",
        "crumble-dev-fs",
        "crumble-dev-vsock",
        "crumble-dev-net",
        "crumble-dev-block",
        "crumble-dev-console",
        "crumble-dev-balloon",
        "crumble-dialer",
        "crumble-unpack",
        "crumble-agent",
    ];
    let directory = crate::assemble::own_directory();
    let (verdict, detail) = match directory {
        Err(error) => (Verdict::Missing, error.to_string()),
        Ok(directory) => {
            let programs = supervisor::Programs::in_directory(&directory);
            let missing = PROGRAMS.iter().find_map(|name| programs.path(name).err());
            missing.map_or_else(
                || (Verdict::Good, directory.display().to_string()),
                |error| (Verdict::Missing, error.to_string()),
            )
        }
    };
    Finding {
        what: "programs",
        verdict,
        detail,
    }
}

fn kernel() -> Finding {
    let cached = kernel::Cache::of_user()
        .ok()
        .and_then(|cache| kernel::cached(&cache));
    let (verdict, detail) = match cached {
        Some(kernel) => (Verdict::Good, kernel.release),
        None if fs::exists("/usr/bin/apt-get").unwrap_or(false) => (
            Verdict::Good,
            "none yet; the distribution's is fetched with apt-get when a machine is first run"
                .to_owned(),
        ),
        None => (
            Verdict::Poor,
            "none, and no apt-get to fetch one: give one with --kernel".to_owned(),
        ),
    };
    Finding {
        what: "guest kernel",
        verdict,
        detail,
    }
}

/// The distribution's kernel in this user's cache, if one was fetched.
#[must_use]
pub fn kernel_path() -> Option<std::path::PathBuf> {
    let cache = kernel::Cache::of_user().ok()?;
    kernel::cached(&cache).map(|kernel| kernel.vmlinux)
}
