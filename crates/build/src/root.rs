//! A tree of files that is only looked at: the context, or a root made of layers.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::Read,
    path::{Component, Path, PathBuf},
};

use crate::error::{BoxError, Fault};

/// Links that may follow each other (`MAXSYMLINKS` of Linux).
const LINKS: usize = 40;

/// The longest `/etc/passwd` that is read, in bytes.
const USERS: u64 = 8 << 20;

/// What a name in a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its kind.
    pub kind: Kind,
    /// Its permissions, with the bits for set-user-ID and so on: `0o7777` at most.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// How many bytes a file has; of others 0.
    pub size: u64,
    /// When its contents were changed, in seconds since 1970.
    pub mtime: u64,
    /// Its extended attributes, such as `security.capability`.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// The kinds of things that have names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and where it points.
    Symlink(PathBuf),
    /// A device, a pipe or a socket.
    Other,
}

/// A tree of files. Paths are relative to its top, which is the empty path; they contain neither `.` nor
/// `..`, and no part of one but the last is a symbolic link.
pub trait Root {
    /// What a path is; `None` if it is not there. Links are not followed.
    ///
    /// # Errors
    ///
    /// The tree cannot be read.
    fn entry(&mut self, path: &Path) -> Result<Option<Entry>, BoxError>;

    /// The names in a directory, in any order.
    ///
    /// # Errors
    ///
    /// The tree cannot be read.
    fn names(&mut self, path: &Path) -> Result<Vec<OsString>, BoxError>;

    /// The contents of a regular file.
    ///
    /// # Errors
    ///
    /// The tree cannot be read.
    fn open(&mut self, path: &Path) -> Result<Box<dyn Read + '_>, BoxError>;
}

/// What a path is, with an error that names it.
pub(crate) fn entry(root: &mut dyn Root, path: &Path) -> Result<Option<Entry>, Fault> {
    root.entry(path)
        .map_err(Fault::failed(format!("look at /{}", path.display())))
}

/// The names in a directory, sorted.
pub(crate) fn names(root: &mut dyn Root, path: &Path) -> Result<Vec<OsString>, Fault> {
    let action = format!("list /{}", path.display());
    let mut names = root.names(path).map_err(Fault::failed(action))?;
    names.sort_unstable();
    Ok(names)
}

/// A path with the links in it followed, as if the tree were all there is. What is not there is taken as
/// it is. `last` is whether the last part is followed too.
pub(crate) fn resolve(
    kind: &mut dyn FnMut(&Path) -> Result<Option<Kind>, Fault>,
    path: &Path,
    last: bool,
) -> Result<PathBuf, Fault> {
    let mut left: VecDeque<OsString> = parts(path).collect();
    let mut found = PathBuf::new();
    let mut links = 0_usize;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            found.pop();
            continue;
        }
        let next = found.join(&part);
        let follow = last || !left.is_empty();
        let Some(Kind::Symlink(target)) = kind(&next)?.filter(|_| follow) else {
            found = next;
            continue;
        };
        links = links.saturating_add(1);
        if links > LINKS {
            return Err(format!("too many symbolic links in /{}", path.display()).into());
        }
        if target.is_absolute() {
            found = PathBuf::new();
        }
        let target: Vec<OsString> = parts(&target).collect();
        target
            .into_iter()
            .rev()
            .for_each(|part| left.push_front(part));
    }
    Ok(found)
}

/// [`resolve`] in a tree, the last part too.
pub(crate) fn resolve_in(root: &mut dyn Root, path: &Path) -> Result<PathBuf, Fault> {
    let mut kind = |path: &Path| Ok(entry(root, path)?.map(|entry| entry.kind));
    resolve(&mut kind, path, true)
}

/// The parts of a path, `..` among them.
fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        _ => None,
    })
}

/// The numbers of `USER[:GROUP]`: each a number, or a name in the tree's `/etc/passwd` and `/etc/group`.
/// The group of a user with a name is the one of its line; of a number it is the same number.
pub(crate) fn owner(root: &mut dyn Root, text: &str) -> Result<(u32, u32), Fault> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let (uid, own_group) = match user.parse() {
        Ok(uid) => (uid, uid),
        Err(_) if user.is_empty() => (0, 0),
        Err(_) => {
            let line = line(root, "etc/passwd", "user", user)?;
            let field = |index| {
                line.get::<usize>(index)
                    .and_then(|field| field.parse().ok())
            };
            field(2)
                .zip(field(3))
                .ok_or_else(|| format!("the line of {user} in /etc/passwd has no numbers"))?
        }
    };
    let gid = match group {
        None => own_group,
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let line = line(root, "etc/group", "group", group)?;
                let field = line.get(2).and_then(|field| field.parse().ok());
                field.ok_or_else(|| format!("the line of {group} in /etc/group has no number"))?
            }
        },
    };
    Ok((uid, gid))
}

/// The line of a name in a file of users or groups.
fn line(root: &mut dyn Root, file: &str, what: &str, name: &str) -> Result<Vec<String>, Fault> {
    let path = resolve_in(root, Path::new(file))?;
    let mut bytes = Vec::new();
    if entry(root, &path)?.is_some_and(|entry| entry.kind == Kind::File) {
        let failed = || format!("read /{file}");
        let contents = root.open(&path).map_err(Fault::failed(failed()))?;
        let read = contents.take(USERS).read_to_end(&mut bytes);
        read.map_err(Fault::failed(failed()))?;
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(|line| line.split(':'));
    let found = lines.find(|fields| fields.clone().next() == Some(name));
    let found = found.ok_or_else(|| {
        format!(
            "there is no {what} \"{name}\" in the image's /{file}; add it before, or use a number"
        )
    })?;
    Ok(found.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(path: &Path) -> Result<Option<Kind>, Fault> {
        let target = match path.to_str() {
            Some("lib") => "usr/lib",
            Some("usr/lib/up") => "../../etc/./x",
            Some("abs") => "/lib/a",
            Some("out") => "../../../out",
            Some("loop") => "loop",
            _ => return Ok(None),
        };
        Ok(Some(Kind::Symlink(target.into())))
    }

    fn resolved(path: &str, last: bool) -> String {
        let path = resolve(&mut links, Path::new(path), last).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn links_are_followed_within_the_root_alone() {
        assert_eq!(resolved("/lib/x/", true), "usr/lib/x");
        assert_eq!(resolved("lib/up/y", true), "etc/x/y");
        assert_eq!(resolved("abs/b", true), "usr/lib/a/b");
        assert_eq!(resolved("../../etc/../a", true), "a");
        assert_eq!(resolved("lib", false), "lib");
        assert_eq!(resolved("abs/../lib", false), "usr/lib/lib");
    }

    #[test]
    fn a_circle_of_links_is_refused() {
        for path in ["loop", "out"] {
            let message = resolve(&mut links, Path::new(path), true)
                .unwrap_err()
                .to_string();
            assert!(message.contains("too many symbolic links"), "{message}");
        }
    }
}
