//! Who a command runs as, from the guest's own `/etc/passwd` and `/etc/group`.

use std::{fs, path::Path};

use crate::error::{Error, Result};

/// A user with all that a process needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Empty for a number that the guest has no name for.
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The supplementary groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Looks up `USER[:GROUP]`, names or numbers, under `root`. A file that is not there is empty;
/// then only numbers, and the user root, are known.
pub(crate) fn find(request: &str, root: &Path) -> Result<User> {
    let read = |path| fs::read(root.join(path)).unwrap_or_default();
    let passwd = read("etc/passwd");
    let group = read("etc/group");
    let (passwd, group) = (
        String::from_utf8_lossy(&passwd),
        String::from_utf8_lossy(&group),
    );
    parse(request, &passwd, &group)
}

fn parse(request: &str, passwd: &str, group: &str) -> Result<User> {
    let (user, wanted_group) = match request.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (request, None),
    };
    let mut found = find_user(user, passwd)?;
    match wanted_group {
        Some(wanted) => found.gid = find_group(wanted, group)?,
        None => found.groups = groups_of(&found.name, found.gid, group),
    }
    Ok(found)
}

fn find_user(user: &str, passwd: &str) -> Result<User> {
    let number = user.parse::<u32>().ok();
    let entries = || passwd.lines().filter_map(user_entry);
    let by_name = entries().find(|entry| entry.name == user);
    let by_number = || entries().find(|entry| Some(entry.uid) == number);
    if let Some(found) = by_name.or_else(by_number) {
        return Ok(found);
    }
    let (uid, home) = match (user, number) {
        ("root", _) | (_, Some(0)) => (0, "/root"),
        (_, Some(number)) => (number, "/"),
        _ => {
            return Err(Error::NoSuch {
                what: "user",
                name: user.to_owned(),
            });
        }
    };
    Ok(User {
        name: if uid == 0 {
            "root".into()
        } else {
            String::new()
        },
        uid,
        // A number without an entry gets group root, as container engines do.
        gid: 0,
        groups: Vec::new(),
        home: home.into(),
    })
}

/// `name:password:uid:gid:comment:home:shell`
fn user_entry(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields
        .nth(1)
        .filter(|home| !home.is_empty())
        .unwrap_or("/")
        .to_owned();
    Some(User {
        name,
        uid,
        gid,
        groups: Vec::new(),
        home,
    })
}

/// `name:password:gid:member,member`
fn group_entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

fn find_group(wanted: &str, group: &str) -> Result<u32> {
    let by_name = group
        .lines()
        .filter_map(group_entry)
        .find(|(name, _, _)| *name == wanted)
        .map(|(_, gid, _)| gid);
    by_name
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| Error::NoSuch {
            what: "group",
            name: wanted.to_owned(),
        })
}

fn groups_of(name: &str, gid: u32, group: &str) -> Vec<u32> {
    if name.is_empty() {
        return Vec::new();
    }
    group
        .lines()
        .filter_map(group_entry)
        .filter(|(_, id, members)| *id != gid && members.split(',').any(|member| member == name))
        .map(|(_, id, _)| id)
        .collect()
}
