//! One process, as `/proc` shows it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    Error, Field, FileKind, Limit, Rights, escape,
    text::{self, Stat},
};

/// The kinds of namespaces, as `/proc/PID/ns` names them.
const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// The files of a control group that limit what a component might take too much of.
const CGROUP_LIMITS: [&str; 3] = ["memory.max", "pids.max", "cpu.max"];

/// No file that is read here is longer, whatever a process puts into its title.
const LONGEST: u64 = 64 << 10;

/// A `/proc`.
#[derive(Debug, Clone)]
pub struct Proc(PathBuf);

/// A process as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// What it says of itself, escaped. It may say anything.
    pub title: String,
    /// The component that its title names.
    pub titled: Option<&'static str>,
    /// The file name of its program, escaped. The kernel says it.
    pub program: Field<String>,
    /// How long it has been running.
    pub age_seconds: Field<u64>,
    /// What its first thread may do.
    pub rights: Field<Rights>,
    /// How many threads it has.
    pub threads: usize,
    /// Those that may do other things than the first.
    pub different_threads: Vec<Thread>,
    /// Its namespaces by their kernel names.
    pub namespaces: BTreeMap<&'static str, Namespace>,
    /// The host's number of its user namespace's root.
    pub root_user: Field<u32>,
    /// Its limits by the names of setrlimit(2).
    pub limits: Field<BTreeMap<&'static str, Limit>>,
    /// The version 2 control group that it is in.
    pub cgroup: Field<ControlGroup>,
    /// How many open files it has, by their kind.
    pub files: Field<BTreeMap<FileKind, usize>>,
    /// Memory that no other process has mapped; the VMM's is mostly the guest's that no device has
    /// touched yet.
    pub private_bytes: Field<u64>,
    /// Whether its memory is hidden from debuggers and dumps.
    pub dumpable: Dumpable,
    /// What a security module such as AppArmor or SELinux calls it.
    pub label: Field<String>,
}

/// A control group (`Documentation/admin-guide/cgroup-v2.rst`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ControlGroup {
    /// Its directory, escaped.
    pub directory: String,
    /// The files of it that limit something, and what is in them; `max` is no limit.
    pub limits: BTreeMap<&'static str, String>,
}

/// A thread. Filters, capabilities and the renunciation of privileges are each thread's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// What it may do.
    pub rights: Rights,
}

/// A namespace that a process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Its number.
    pub inode: Field<u64>,
    /// Whether it is another than the caller's.
    pub own: Field<bool>,
}

/// Whether a process's memory can be dumped, which the kernel tells others in one case only: its
/// files in `/proc` belong to its user namespace's root instead of to its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dumpable {
    /// It can.
    Yes,
    /// It cannot.
    No,
    /// Its user is its namespace's root, so both cases look the same.
    CannotBeTold,
}

impl Proc {
    /// This host's.
    #[must_use]
    pub fn host() -> Self {
        Self("/proc".into())
    }

    /// A copy of one.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// Every process that lives, by number.
    pub(crate) fn living(&self) -> Result<Vec<Stat>, Error> {
        let failed = |source| Error::List {
            path: self.0.clone(),
            source,
        };
        let stat = |entry: fs::DirEntry| {
            number(&entry.path())?;
            text::stat(&read(&entry.path().join("stat")).ok()?)
        };
        let all = fs::read_dir(&self.0).map_err(failed)?;
        let stats = all.filter_map(|entry| stat(entry.ok()?));
        let mut living: Vec<_> = stats.filter(|stat| !stat.ended).collect();
        living.sort_unstable_by_key(|stat| stat.pid);
        Ok(living)
    }

    /// Which component `pid` is, as [`Process::component`] has it.
    pub(crate) fn component(&self, pid: u32) -> Option<&'static str> {
        let directory = self.0.join(pid.to_string());
        match fs::read_link(directory.join("exe")) {
            Ok(program) => text::program(&file_name(program)?),
            Err(_) => text::component(&read_bytes(&directory.join("cmdline")).ok()?),
        }
    }

    /// The process `pid`, if it lives.
    #[must_use]
    pub fn process(&self, pid: u32) -> Option<Process> {
        // An open directory stays this process's: should it end and its number go to another,
        // there is nothing to be read any more.
        let handle = File::open(self.0.join(pid.to_string())).ok()?;
        let directory = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        let process = self.read_process(&directory)?;
        let alive = text::stat(&read(&directory.join("stat")).ok()?)?;
        (!alive.ended && process.pid == pid).then_some(process)
    }

    fn read_process(&self, directory: &Path) -> Option<Process> {
        let field = |name: &str| Field::from(read(&directory.join(name)));
        let stat = text::stat(&read(&directory.join("stat")).ok()?)?;
        let title = read_bytes(&directory.join("cmdline")).unwrap_or_default();
        let rights = field("status").parse(|text| Some(text::rights(&text)));
        let threads = threads(&directory.join("task"));
        let differs = |thread: &Thread| rights.read() != Some(&thread.rights);
        let different_threads = threads.iter().filter(|one| differs(one)).cloned().collect();
        let root_user = field("uid_map").parse(|text| text::root_of(&text));
        Some(Process {
            pid: stat.pid,
            parent: stat.parent,
            titled: text::component(&title),
            title: escape(&title),
            program: Field::from(fs::read_link(directory.join("exe"))).parse(file_name),
            age_seconds: Field::from(read(&self.0.join("uptime")))
                .parse(|uptime| text::age(&uptime, stat.started)),
            dumpable: dumpable(directory, &rights, &root_user),
            rights,
            threads: threads.len(),
            different_threads,
            namespaces: self.namespaces(&directory.join("ns")),
            root_user,
            limits: field("limits").parse(|text| text::limits(&text)),
            cgroup: field("cgroup").parse(|text| self.cgroup(&text)),
            files: Field::from(files(&directory.join("fd"))),
            private_bytes: field("smaps_rollup").parse(|text| text::private_bytes(&text)),
            label: field("attr/current").parse(|text| label(&text)),
        })
    }

    /// The group that a process's `cgroup` names.
    fn cgroup(&self, groups: &str) -> Option<ControlGroup> {
        let mounts = read(&self.0.join("self/mountinfo")).ok()?;
        let (directory, _) = jailer::cgroup_directories(&mounts, groups)?;
        let limit = |name| {
            let value = read(&directory.join(name)).ok()?;
            Some((name, escape(value.trim().as_bytes())))
        };
        Some(ControlGroup {
            directory: escape(directory.as_os_str().as_encoded_bytes()),
            limits: CGROUP_LIMITS.into_iter().filter_map(limit).collect(),
        })
    }

    /// The namespaces in `directory`, compared with the caller's.
    fn namespaces(&self, directory: &Path) -> BTreeMap<&'static str, Namespace> {
        let callers = self.0.join("self/ns");
        let namespace = |name| {
            let inode = inode(&directory.join(name));
            let own = match (inode, inode_of_caller(&callers.join(name))) {
                (Field::Read(inode), Some(callers)) => Field::Read(inode != callers),
                (Field::Hidden, _) => Field::Hidden,
                _ => Field::Absent,
            };
            (name, Namespace { inode, own })
        };
        NAMESPACES.into_iter().map(namespace).collect()
    }
}

impl Process {
    /// Which component it is: what its program is, or what it says if that cannot be seen.
    #[must_use]
    pub fn component(&self) -> Option<&'static str> {
        match self.program.read() {
            Some(program) => text::program(program),
            None => self.titled,
        }
    }
}

fn inode(link: &Path) -> Field<u64> {
    Field::from(fs::read_link(link)).parse(|target| text::namespace(target.to_str()?))
}

fn inode_of_caller(link: &Path) -> Option<u64> {
    inode(link).read().copied()
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A name in it may be anything, so what is not UTF-8 is replaced.
fn read(path: &Path) -> io::Result<String> {
    read_bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The number that a directory's name is.
fn number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.parse().ok()
}

fn file_name(path: PathBuf) -> Option<String> {
    let name = path.file_name()?.as_encoded_bytes();
    // The kernel's note that the file has been removed or replaced since.
    Some(escape(name.strip_suffix(b" (deleted)").unwrap_or(name)))
}

fn label(text: &str) -> Option<String> {
    let text = text.trim_end_matches(['\0', '\n']);
    (!text.is_empty()).then(|| escape(text.as_bytes()))
}

fn threads(directory: &Path) -> Vec<Thread> {
    let thread = |entry: fs::DirEntry| {
        let tid = number(&entry.path())?;
        let rights = text::rights(&read(&entry.path().join("status")).ok()?);
        Some(Thread { tid, rights })
    };
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut threads: Vec<_> = entries.filter_map(|entry| thread(entry.ok()?)).collect();
    threads.sort_by_key(|thread| thread.tid);
    threads
}

fn files(directory: &Path) -> io::Result<BTreeMap<FileKind, usize>> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        // A descriptor that is closed meanwhile is none.
        if let Some(kind) = FileKind::of(&entry?.path()) {
            let count: &mut usize = kinds.entry(kind).or_default();
            *count = count.saturating_add(1);
        }
    }
    Ok(kinds)
}

fn dumpable(directory: &Path, rights: &Field<Rights>, root_user: &Field<u32>) -> Dumpable {
    let owner = fs::metadata(directory.join("status")).ok();
    let user = rights.read().and_then(|rights| rights.uid.read());
    let (Some(owner), Some(user)) = (owner.map(|data| data.uid()), user) else {
        return Dumpable::CannotBeTold;
    };
    if owner != user.effective {
        Dumpable::No
    } else if root_user.read().is_some_and(|root| *root != owner) {
        Dumpable::Yes
    } else {
        Dumpable::CannotBeTold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_process_is_read() {
        let pid = std::process::id();
        let process = Proc::host().process(pid).unwrap();
        assert_eq!(process.pid, pid);
        assert_eq!(process.titled, None);
        assert!(process.program.read().unwrap().starts_with("inspect-"));
        assert!(process.threads >= 2 && process.different_threads.is_empty());
        let rights = process.rights.read().unwrap();
        assert!(rights.uid.read().is_some() && rights.capabilities.read().is_some());
        let user = process.namespaces.get("user").unwrap();
        assert_eq!(user.own, Field::Read(false));
        assert!(process.limits.read().unwrap().contains_key("nofile"));
        assert!(process.files.read().unwrap().values().sum::<usize>() >= 3);
        assert!(process.private_bytes.read().is_some_and(|bytes| *bytes > 0));
    }

    #[test]
    fn a_socket_that_is_opened_is_counted() {
        let sockets = || {
            let process = Proc::host().process(std::process::id()).unwrap();
            let files = process.files.read().cloned().unwrap();
            files.get(&FileKind::Socket).copied().unwrap_or_default()
        };
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(sockets() >= 2);
        drop(pair);
    }

    #[test]
    fn a_process_that_does_not_exist_is_none() {
        assert_eq!(Proc::host().process(u32::MAX), None);
        assert!(Proc::at("/nonexistent").living().is_err());
    }

    #[test]
    fn a_program_keeps_its_name_when_its_file_is_replaced() {
        let name = |text: &str| file_name(PathBuf::from(text)).unwrap();
        assert_eq!(name("/x/crumble-vmm (deleted)"), "crumble-vmm");
        assert_eq!(name("/x/crumble-vmm"), "crumble-vmm");
    }
}
