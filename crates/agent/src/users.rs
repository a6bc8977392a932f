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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        broken line\n\
        ann:x:1000:100:Ann:/home/ann:/bin/sh\n\
        1234:x:7:7::/seven:\n\
        homeless:x:8:8::\n";
    const GROUP: &str =
        "root:x:0:\nusers:x:100:\nwheel:x:10:root,ann\nvideo:x:44:bob,ann\n:x:1:ann\n";

    fn user(name: &str, uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User {
            name: name.into(),
            uid,
            gid,
            groups: groups.into(),
            home: home.into(),
        }
    }

    #[track_caller]
    fn check(request: &str, expected: User) {
        assert_eq!(parse(request, PASSWD, GROUP).unwrap(), expected);
    }

    #[test]
    fn a_name_or_number_brings_its_groups_and_home() {
        check("ann", user("ann", 1000, 100, &[10, 44], "/home/ann"));
        check("1000", user("ann", 1000, 100, &[10, 44], "/home/ann"));
    }

    #[test]
    fn a_group_replaces_all_of_the_user_s() {
        check("ann:wheel", user("ann", 1000, 10, &[], "/home/ann"));
        check("ann:77", user("ann", 1000, 77, &[], "/home/ann"));
    }

    #[test]
    fn a_name_that_looks_like_a_number_comes_before_the_number() {
        check("1234", user("1234", 7, 7, &[], "/seven"));
    }

    #[test]
    fn a_number_without_an_entry_is_a_user_without_name() {
        check("4000", user("", 4000, 0, &[], "/"));
        check("4000:users", user("", 4000, 100, &[], "/"));
    }

    #[test]
    fn an_entry_without_a_home_has_the_root_directory() {
        check("homeless", user("homeless", 8, 8, &[], "/"));
    }

    #[test]
    fn root_is_known_without_any_file() {
        assert_eq!(
            parse("root", "", "").unwrap(),
            user("root", 0, 0, &[], "/root")
        );
        assert_eq!(
            parse("0:0", "", "").unwrap(),
            user("root", 0, 0, &[], "/root")
        );
    }

    #[test]
    fn an_unknown_user_or_group_is_named() {
        for (request, named) in [
            ("bob", "bob"),
            ("ann:none", "none"),
            ("-1", "-1"),
            ("ann:", ""),
        ] {
            let text = parse(request, PASSWD, GROUP).unwrap_err().to_string();
            assert!(text.contains(&format!("{named:?}")), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(
            request in "[a-z0-9:]{0,8}",
            passwd in "[a-z0-9:\n]{0,80}",
            group in "[a-z0-9:,\n]{0,80}",
        ) {
            let _ = parse(&request, &passwd, &group);
        }
    }
}
