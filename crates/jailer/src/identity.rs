//! Which of the host's users and groups a component's are.

use std::fmt::Write;
use std::{fs, io};

use nix::unistd::{Gid, Uid};
use policy::{Identity, Policy};

/// The first of the numbers for components that are started by root: far above those of people,
/// services and containers, below those that some file systems cannot store.
const FIRST: u32 = 0x7000_0000;

/// How many numbers there are from [`FIRST`] on; more than there are processes (`pid_max` is at
/// most 2^22).
const COUNT: u32 = 0x0fff_ffff;

/// A range of a user namespace's numbers, and where it is in the parent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inner: u32,
    outer: u32,
    count: u32,
}

/// The maps of a new process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    users: Vec<Range>,
    groups: Vec<Range>,
    /// The process may change its groups.
    groups_change: bool,
}

/// What `policy` amounts to for the user who runs this: an ordinary user has only one number to
/// give.
#[must_use]
pub fn effective(policy: &Policy) -> Identity {
    if privileged() {
        policy.identity.value
    } else {
        Identity::Single
    }
}

/// Whether this process may map other users than its own.
pub(crate) fn privileged() -> bool {
    Uid::effective().is_root()
}

impl Maps {
    /// The maps for process `pid` under `policy`.
    pub(crate) fn choose(policy: &Policy, pid: i32) -> io::Result<Self> {
        let (user, group) = (Uid::effective().as_raw(), Gid::effective().as_raw());
        if !privileged() {
            return Ok(Self {
                users: single(user),
                groups: single(group),
                groups_change: false,
            });
        }
        let users = parse(&fs::read_to_string("/proc/self/uid_map")?)?;
        let groups = parse(&fs::read_to_string("/proc/self/gid_map")?)?;
        let (users, groups) = match policy.identity.value {
            Identity::All => (identical(&users), identical(&groups)),
            Identity::Single => (
                single(distinct(&users, pid).unwrap_or(user)),
                single(distinct(&groups, pid).unwrap_or(group)),
            ),
        };
        Ok(Self {
            users,
            groups,
            groups_change: true,
        })
    }

    /// Gives the maps to process `pid`.
    pub(crate) fn write(&self, pid: i32) -> io::Result<()> {
        if !self.groups_change {
            fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
        }
        fs::write(format!("/proc/{pid}/gid_map"), text(&self.groups))?;
        fs::write(format!("/proc/{pid}/uid_map"), text(&self.users))
    }
}

/// Number 0 inside, `outer` outside.
fn single(outer: u32) -> Vec<Range> {
    vec![Range {
        inner: 0,
        outer,
        count: 1,
    }]
}

/// Everything that exists in the parent's namespace, under the same number.
fn identical(parent: &[Range]) -> Vec<Range> {
    let same = |range: &Range| Range {
        outer: range.inner,
        ..*range
    };
    parent.iter().map(same).collect()
}

/// A number that no other living process has: made from `pid`, if the parent's namespace has that
/// many, else none.
fn distinct(parent: &[Range], pid: i32) -> Option<u32> {
    let number = FIRST.checked_add(u32::try_from(pid).ok()? % COUNT)?;
    parent
        .iter()
        .any(|range| (range.inner..range.inner.saturating_add(range.count)).contains(&number))
        .then_some(number)
}

/// Reads the kernel's own form of a map.
fn parse(text: &str) -> io::Result<Vec<Range>> {
    let bad = || io::Error::other(format!("`{text}` is not a map of users"));
    text.lines()
        .map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let mut next = || numbers.next().and_then(Result::ok).ok_or_else(bad);
            let range = Range {
                inner: next()?,
                outer: next()?,
                count: next()?,
            };
            if range.count == 0 {
                Err(bad())
            } else {
                Ok(range)
            }
        })
        .collect()
}

/// Writes the kernel's own form of a map.
fn text(ranges: &[Range]) -> String {
    let mut text = String::new();
    for range in ranges {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {} {}", range.inner, range.outer, range.count);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "         0          0 4294967295\n";

    #[test]
    fn the_hosts_map_is_copied_for_a_component_with_all_users() {
        let host = parse(HOST).unwrap();
        assert_eq!(text(&identical(&host)), "0 0 4294967295\n");
    }

    #[test]
    fn a_containers_map_is_copied_by_the_numbers_that_exist_in_it() {
        let container = parse("0 1000 1\n1 100000 65536\n").unwrap();
        assert_eq!(text(&identical(&container)), "0 0 1\n1 1 65536\n");
    }

    #[test]
    fn two_processes_of_root_get_two_numbers() {
        let host = parse(HOST).unwrap();
        assert_eq!(distinct(&host, 1), Some(0x7000_0001));
        assert_eq!(distinct(&host, 4_194_304), Some(0x7040_0000));
    }

    #[test]
    fn where_high_numbers_do_not_exist_none_is_made_up() {
        assert_eq!(distinct(&parse("0 100000 65536\n").unwrap(), 77), None);
    }

    #[test]
    fn something_else_than_a_map_is_an_error() {
        for text in ["0 0\n", "a b c\n", "0 0 0\n", "-1 0 1\n"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
