//! Limits of a machine and of each of its components by cgroup v2
//! (`Documentation/admin-guide/cgroup-v2.rst`), where the host lets the caller make groups.
//!
//! A machine has a group, and each component one in it. They bound what resource limits cannot:
//! memory of every kind with guest memory in it, processes whoever their user is, and CPU time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use policy::{Policy, Resource};

use crate::{Error, Result};

/// What groups of ours are called, before the caller's process id and a number.
const PREFIX: &str = "crumble-";

/// The period that CPU time is counted in, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// What a component may have beyond its private memory and the guest's: tables of the kernel's,
/// buffers of sockets, files in the page cache, which are given back when needed.
const KERNEL_MEMORY: u64 = 64 << 20;

/// How often, and how long apart, an emptied group is tried to be removed: the kernel takes a
/// moment to forget processes that have ended.
const REMOVAL: (u32, Duration) = (50, Duration::from_millis(4));

/// Makes groups different that one process makes.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Where the caller may make groups.
#[derive(Debug)]
pub struct Delegation {
    directory: PathBuf,
    cpu: bool,
}

impl Delegation {
    /// The caller's own group or the one above it, if groups with limits of memory and processes
    /// can be made there and processes of the caller moved into them.
    #[must_use]
    pub fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let (own, top) = cgroup_directories(&mounts, &groups)?;
        let above = own.parent().filter(|above| above.starts_with(&top));
        [Some(own.as_path()), above]
            .into_iter()
            .flatten()
            .find_map(Self::at)
    }

    /// `directory`, if groups can be made in it.
    fn at(directory: &Path) -> Option<Self> {
        let controllers = fs::read_to_string(directory.join("cgroup.subtree_control")).ok()?;
        let has = |name| controllers.split_whitespace().any(|word| word == name);
        // Processes come from below here and go below here, which takes this right.
        let procs = OpenOptions::new()
            .write(true)
            .open(directory.join("cgroup.procs"));
        (has("memory") && has("pids") && procs.is_ok()).then(|| Self {
            directory: directory.to_owned(),
            cpu: has("cpu"),
        })
    }

    /// The directory that groups are made in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether CPU time can be limited.
    #[must_use]
    pub const fn limits_cpu(&self) -> bool {
        self.cpu
    }

    /// Removes what callers have left that were killed.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            let owner = owner.and_then(|rest| rest.split('-').next());
            let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                remove(&entry.path());
            }
        }
    }
}

/// What one machine may use.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of guest memory, which counts for whichever component touches it first.
    pub guest_memory: u64,
    /// CPUs that it may keep busy.
    pub cpus: u64,
}

/// The group of a machine. Dropping it removes it; its processes must have ended.
#[derive(Debug)]
pub struct Group {
    directory: PathBuf,
    guest_memory: u64,
}

impl Group {
    /// Makes the group of a machine whose components have `policies`.
    ///
    /// # Errors
    /// [`Error::Prepare`].
    pub fn new(delegation: &Delegation, budget: Budget, policies: &[&Policy]) -> Result<Self> {
        delegation.sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let directory = delegation.directory.join(name);
        fs::create_dir(&directory).map_err(|error| Error::Prepare("make a cgroup", error))?;
        let group = Self {
            directory,
            guest_memory: budget.guest_memory,
        };
        let own = policies.iter().map(|policy| own_memory(policy));
        let memory = own.fold(budget.guest_memory, u64::saturating_add);
        let processes = policies.iter().map(|policy| processes(policy));
        group.limit(&group.directory, "memory.max", memory)?;
        let processes = processes.fold(0, u64::saturating_add);
        group.limit(&group.directory, "pids.max", processes)?;
        if delegation.cpu {
            let quota = budget.cpus.saturating_mul(PERIOD);
            group.set(&group.directory, "cpu.max", &format!("{quota} {PERIOD}"))?;
        }
        group.set(&group.directory, "cgroup.subtree_control", "+memory +pids")?;
        Ok(group)
    }

    /// Makes the group of a component, called `name`, which has no `/` in it; or takes that of its
    /// predecessor, which has ended. It is removed with the machine's.
    ///
    /// # Errors
    /// [`Error::Prepare`].
    pub fn component(&self, name: &str, policy: &Policy) -> Result<Leaf> {
        let failed = |error| Error::Prepare("make a cgroup for a component", error);
        let directory = self.directory.join(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let memory = self.guest_memory.saturating_add(own_memory(policy));
        self.limit(&directory, "memory.max", memory)?;
        self.limit(&directory, "pids.max", processes(policy))?;
        Ok(Leaf(File::open(directory).map_err(failed)?))
    }

    fn limit(&self, directory: &Path, file: &str, most: u64) -> Result<()> {
        self.set(directory, file, &most.to_string())
    }

    fn set(&self, directory: &Path, file: &str, value: &str) -> Result<()> {
        let opened = OpenOptions::new().write(true).open(directory.join(file));
        opened
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|error| Error::Prepare("set the limits of a cgroup", error))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let (times, apart) = REMOVAL;
        for _ in 0..times {
            if remove(&self.directory) {
                return;
            }
            thread::sleep(apart);
        }
    }
}

/// Whether a group's directory is that of a component, in the group of its machine.
#[must_use]
pub fn is_component_group(directory: &Path) -> bool {
    let machine = directory.parent().and_then(Path::file_name);
    machine.is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
}

/// The group of a component, for [`crate::Launch`].
#[derive(Debug)]
pub struct Leaf(File);

impl AsFd for Leaf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a policy's limits say of memory that is the component's own.
fn own_memory(policy: &Policy) -> u64 {
    most(policy, Resource::Data).map_or(u64::MAX, |most| most.saturating_add(KERNEL_MEMORY))
}

/// What a policy's limits say of processes and threads.
fn processes(policy: &Policy) -> u64 {
    // The kernel's largest process id: no limit.
    most(policy, Resource::Nproc).unwrap_or(1 << 22)
}

fn most(policy: &Policy, resource: Resource) -> Option<u64> {
    let mut limits = policy.limits.iter().map(|line| line.value);
    limits
        .find(|limit| limit.resource == resource)
        .map(|limit| limit.most)
}

/// Removes an empty group and those in it.
fn remove(directory: &Path) -> bool {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // What is in use stays, and so does the one above it.
            let _ = fs::remove_dir(entry.path());
        }
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Where the version 2 group of a process is and the uppermost that is mounted, from the caller's
/// `mountinfo` (proc_pid_mountinfo(5)) and the process's `cgroup` (cgroups(7)).
#[must_use]
pub fn cgroup_directories(mounts: &str, groups: &str) -> Option<(PathBuf, PathBuf)> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        if back.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = front.split(' ').skip(3);
        let (root, place) = (fields.next()?, Path::new(fields.next()?));
        let below = Path::new(group).strip_prefix(root).ok()?;
        Some((place.join(below), place.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
                          31 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found_below_the_mount() {
        let found = cgroup_directories(MOUNTS, "1:cpu:/x\n0::/user.slice/a.scope\n").unwrap();
        assert_eq!(found.0, Path::new("/sys/fs/cgroup/user.slice/a.scope"));
        assert_eq!(found.1, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn a_mount_of_a_part_shows_only_that_part() {
        let mounts = "31 24 0:26 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        assert!(cgroup_directories(mounts, "0::/elsewhere\n").is_none());
        let found = cgroup_directories(mounts, "0::/docker/x/y\n").unwrap();
        assert_eq!(found.0, Path::new("/sys/fs/cgroup/y"));
    }

    #[test]
    fn without_version_2_there_is_none() {
        assert!(cgroup_directories(MOUNTS, "4:memory:/x\n").is_none());
        assert!(cgroup_directories("24 1 0:22 / /proc rw - proc proc rw\n", "0::/\n").is_none());
    }

    #[test]
    fn every_component_has_a_limit_of_memory_and_of_processes() {
        for policy in policy::all() {
            assert!(
                most(policy, Resource::Data).is_some(),
                "{}",
                policy.component
            );
            assert!(
                most(policy, Resource::Nproc).is_some(),
                "{}",
                policy.component
            );
        }
    }
}
