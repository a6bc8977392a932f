//! The kernel's texts (proc_pid(5)), and what is in them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Capabilities, CapabilitySet, Field};

/// A process's line in `/proc/PID/stat`, as far as it is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// It has ended, and nobody has waited for it yet.
    pub(crate) ended: bool,
    /// When it was started, in ticks since the host was.
    pub(crate) started: u64,
}

/// Parses a `stat`. The name in its second field may contain anything, also parentheses.
pub(crate) fn stat(text: &str) -> Option<Stat> {
    let (before, after) = text.rsplit_once(')')?;
    let (pid, _) = before.split_once(' ')?;
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?;
    // The 22nd field of the line; the fourth, the parent, is behind us.
    let started = fields.nth(17)?;
    Some(Stat {
        pid: pid.parse().ok()?,
        parent: parent.parse().ok()?,
        ended: matches!(state, "Z" | "X"),
        started: started.parse().ok()?,
    })
}

/// The numbers of a user, or of a group, as the caller's user namespace has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ids {
    /// Who started it.
    pub real: u32,
    /// Whose rights it has.
    pub effective: u32,
    /// What it may change back to.
    pub saved: u32,
    /// Whose rights over files it has.
    pub fs: u32,
}

impl Ids {
    /// All four.
    #[must_use]
    pub const fn all(&self) -> [u32; 4] {
        [self.real, self.effective, self.saved, self.fs]
    }
}

/// What a thread may do: each thread has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rights {
    /// Its users.
    pub uid: Field<Ids>,
    /// Its groups.
    pub gid: Field<Ids>,
    /// No exec can give it more.
    pub no_new_privs: Field<bool>,
    /// 0 without seccomp, 1 in strict mode, 2 under a filter.
    pub seccomp: Field<u32>,
    /// How many filters; Linux 5.9 and newer say it.
    pub seccomp_filters: Field<u32>,
    /// Its capabilities in its user namespace.
    pub capabilities: Field<Capabilities>,
}

/// Parses a `status`.
pub(crate) fn rights(text: &str) -> Rights {
    let lines: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key, value.trim()))
        .collect();
    let number = |key: &str| -> Field<u32> {
        let value = lines.get(key).and_then(|value| value.parse().ok());
        Field::from(value)
    };
    Rights {
        uid: Field::from(lines.get("Uid").and_then(|text| ids(text))),
        gid: Field::from(lines.get("Gid").and_then(|text| ids(text))),
        no_new_privs: number("NoNewPrivs").parse(|value| Some(value != 0)),
        seccomp: number("Seccomp"),
        seccomp_filters: number("Seccomp_filters"),
        capabilities: Field::from(capabilities(&lines)),
    }
}

fn ids(text: &str) -> Option<Ids> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u32>);
    let mut next = || numbers.next()?.ok();
    Some(Ids {
        real: next()?,
        effective: next()?,
        saved: next()?,
        fs: next()?,
    })
}

fn capabilities(lines: &BTreeMap<&str, &str>) -> Option<Capabilities> {
    let set = |key: &str| {
        let value = u64::from_str_radix(lines.get(key)?, 16).ok()?;
        Some(CapabilitySet(value))
    };
    Some(Capabilities {
        effective: set("CapEff")?,
        permitted: set("CapPrm")?,
        inheritable: set("CapInh")?,
        bounding: set("CapBnd")?,
        ambient: set("CapAmb")?,
    })
}

/// A resource limit; none is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// What the kernel enforces.
    pub soft: Option<u64>,
    /// What the process may raise it to.
    pub hard: Option<u64>,
}

/// The kernel's names of resources, and those of setrlimit(2).
const RESOURCES: [(&str, &str); 16] = [
    ("Max cpu time", "cpu"),
    ("Max file size", "fsize"),
    ("Max data size", "data"),
    ("Max stack size", "stack"),
    ("Max core file size", "core"),
    ("Max resident set", "rss"),
    ("Max processes", "nproc"),
    ("Max open files", "nofile"),
    ("Max locked memory", "memlock"),
    ("Max address space", "as"),
    ("Max file locks", "locks"),
    ("Max pending signals", "sigpending"),
    ("Max msgqueue size", "msgqueue"),
    ("Max nice priority", "nice"),
    ("Max realtime priority", "rtprio"),
    ("Max realtime timeout", "rttime"),
];

/// Parses a `limits`; none if nothing in it is known.
pub(crate) fn limits(text: &str) -> Option<BTreeMap<&'static str, Limit>> {
    let limits: BTreeMap<_, _> = text.lines().filter_map(limit_line).collect();
    (!limits.is_empty()).then_some(limits)
}

fn limit_line(line: &str) -> Option<(&'static str, Limit)> {
    let (rest, name) = RESOURCES
        .into_iter()
        .find_map(|(text, name)| Some((line.strip_prefix(text)?, name)))?;
    let mut words = rest.split_ascii_whitespace();
    let soft = limit(words.next()?)?;
    let hard = limit(words.next()?)?;
    Some((name, Limit { soft, hard }))
}

/// A limit's word: none is a word that is not understood, none within is no limit.
fn limit(word: &str) -> Option<Option<u64>> {
    match word {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// Parses a `smaps_rollup`: the bytes of memory that no other process has.
pub(crate) fn private_bytes(text: &str) -> Option<u64> {
    let mut lines = text
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .peekable();
    lines.peek()?;
    lines
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(_, value)| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .try_fold(0_u64, |sum, kilobytes| {
            sum.checked_add(kilobytes.checked_mul(1024)?)
        })
}

/// Parses the target of a link in `ns`, as in `mnt:[4026531841]`.
pub(crate) fn namespace(target: &str) -> Option<u64> {
    let (_, number) = target.split_once(":[")?;
    number.strip_suffix(']')?.parse().ok()
}

/// Parses a `uid_map`: what user 0 of the namespace is outside.
pub(crate) fn root_of(map: &str) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace();
        let inner = numbers.next()?;
        let outer = numbers.next()?.parse().ok()?;
        (inner == "0").then_some(outer)
    })
}

/// How many seconds ago a process was started, from `uptime` and the ticks of its `stat`.
pub(crate) fn age(uptime: &str, started: u64) -> Option<u64> {
    // A tick is a hundredth of a second on every architecture that machines run on (USER_HZ).
    let started = started / 100;
    let (seconds, _) = uptime.split_once('.')?;
    Some(seconds.parse::<u64>().ok()?.saturating_sub(started))
}

/// So much of a title is shown.
const TITLE: usize = 256;

/// A title with its arguments side by side and nothing in it that moves a cursor, changes a
/// colour, or looks like something else.
#[must_use]
pub fn escape(title: &[u8]) -> String {
    let text = String::from_utf8_lossy(title);
    let mut shown = String::new();
    for char in text.trim_end_matches('\0').chars().take(TITLE) {
        match char {
            '\0' => shown.push(' '),
            ' ' => shown.push(char),
            '\\' => shown.push_str("\\\\"),
            _ if char.is_ascii_graphic() || char.is_alphanumeric() => shown.push(char),
            _ => shown.extend(char.escape_default()),
        }
    }
    shown
}

/// The component that a title names: `dev-fs` of `crumble-dev-fs: fs-root`.
pub(crate) fn component(title: &[u8]) -> Option<&'static str> {
    let title = std::str::from_utf8(title).ok()?;
    let (name, _) = title.strip_prefix("crumble-")?.split_once(": ")?;
    policy::component(name).map(|policy| policy.component)
}

/// The component whose program has this file name.
pub(crate) fn program(name: &str) -> Option<&'static str> {
    let policy = policy::component(name.strip_prefix("crumble-")?)?;
    Some(policy.component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse_a_stat() {
        let text = "7 (a) R 1 (b) Z 5 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 900 1 1 1\n";
        let expected = Stat {
            pid: 7,
            parent: 5,
            ended: true,
            started: 900,
        };
        assert_eq!(stat(text), Some(expected));
        assert_eq!(stat("7 (a"), None);
        assert_eq!(stat(""), None);
    }

    #[test]
    fn a_status_of_an_old_kernel_lacks_some_fields() {
        let rights = rights("Name:\tx\nUid:\t1\t2\t3\t4\nSeccomp:\t2\n");
        assert_eq!(rights.uid.read().map(Ids::all), Some([1, 2, 3, 4]));
        assert_eq!(rights.seccomp, Field::Read(2));
        assert_eq!(rights.seccomp_filters, Field::Absent);
        assert_eq!(rights.no_new_privs, Field::Absent);
        assert_eq!(rights.capabilities, Field::Absent);
    }

    #[test]
    fn limits_are_read_by_name() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max core file size        0                    unlimited            bytes     \n\
                    Max open files            1024                 8192                 files     \n";
        let limits = limits(text).unwrap();
        let core = Limit {
            soft: Some(0),
            hard: None,
        };
        assert_eq!(limits.get("core"), Some(&core));
        assert_eq!(limits["nofile"].hard, Some(8192));
        assert_eq!(limits.len(), 2);
        assert_eq!(super::limits("nonsense"), None);
    }

    #[test]
    fn private_memory_is_clean_and_dirty() {
        let text = "Rss:  9 kB\nPrivate_Clean:  4 kB\nPrivate_Dirty:  8 kB\nSwap: 1 kB\n";
        assert_eq!(private_bytes(text), Some(12 << 10));
        assert_eq!(private_bytes(""), None);
    }

    #[test]
    fn ages_are_of_now() {
        assert_eq!(age("100.50 5.0\n", 9000), Some(10));
        assert_eq!(age("100.50 5.0\n", 90000), Some(0));
        assert_eq!(age("", 9000), None);
    }

    #[test]
    fn a_title_cannot_speak_to_the_terminal() {
        let title = "crumble\x1b[31m\0--x\u{202e}\u{9b}\\\0".as_bytes();
        assert_eq!(escape(title), "crumble\\u{1b}[31m --x\\u{202e}\\u{9b}\\\\");
        assert_eq!(escape(&[b'a'; 10_000]).len(), TITLE);
    }

    #[test]
    fn a_title_names_a_component_that_exists() {
        assert_eq!(component(b"crumble-dev-fs: fs-root\0"), Some("dev-fs"));
        assert_eq!(component(b"crumble-dev-nothing: x\0"), None);
        assert_eq!(component(b"crumble\0run\0"), None);
        assert_eq!(component(b"crumble-vmm\xff: x"), None);
    }

    #[test]
    fn the_root_of_a_namespace_is_found_in_its_map() {
        assert_eq!(
            root_of("         0 1879048192          1\n"),
            Some(0x7000_0000)
        );
        assert_eq!(root_of("1 5 1\n"), None);
        assert_eq!(namespace("mnt:[4026531841]"), Some(4_026_531_841));
        assert_eq!(namespace("mnt"), None);
    }
}
