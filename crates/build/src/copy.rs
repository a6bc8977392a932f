//! The sources of `COPY` and `ADD`: what the words name in a tree.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use crate::{
    archive::{self, Format},
    cache::Keying,
    error::Fault,
    glob::Glob,
    root::{Entry, Kind, Root, entry, names, resolve_in},
    worker::Fetched,
};

/// How words are taken.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    /// Archives are unpacked.
    pub(crate) add: bool,
    /// The directories above go along: those after a `/./`, if there is one in the word.
    pub(crate) parents: bool,
    /// What is left out.
    pub(crate) exclude: Vec<Glob>,
}

impl Taking {
    /// Whether a path is left out, by itself or with a directory that it is in.
    fn excludes(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        !path.is_empty() && self.exclude.iter().any(|glob| glob.covers(&path))
    }

    /// The directories of `named`, which `word` names, that go along.
    fn parents(&self, word: &str, named: &Path, is_directory: bool) -> PathBuf {
        if !self.parents {
            return PathBuf::new();
        }
        let parts = |text: &str| {
            text.split('/')
                .filter(|part| !matches!(*part, "" | "."))
                .count()
        };
        let before = word.trim_start_matches("./").split_once("/./");
        let skipped = before.map_or(0, |(before, _)| parts(before));
        let above = if is_directory {
            Some(named)
        } else {
            named.parent()
        };
        above.into_iter().flatten().skip(skipped).collect()
    }
}

/// What one word names, or a part of it.
#[derive(Debug)]
pub(crate) enum Item {
    /// A file with a name, or what is in a directory.
    Tree {
        name: OsString,
        /// The directories at the destination that it goes to.
        at: PathBuf,
        /// The file, or the directory before what is in it.
        found: Vec<Found>,
    },
    /// A here-document.
    Text { name: String, content: String },
    /// What was fetched from an address.
    Fetched {
        /// None if the address does not end with one.
        name: Option<String>,
        fetched: Fetched,
    },
    /// An archive, which is unpacked.
    Archive { path: PathBuf, format: Format },
}

/// A name in a tree.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it is.
    pub(crate) from: PathBuf,
    /// Where it goes, relative to the destination.
    pub(crate) to: PathBuf,
    pub(crate) entry: Entry,
}

impl Item {
    /// Whether it has to be in a directory at the destination.
    pub(crate) fn is_directory(&self) -> bool {
        match self {
            Self::Tree { found, .. } => {
                let first = found.first();
                first.is_some_and(|first| first.entry.kind == Kind::Directory)
            }
            Self::Text { .. } | Self::Fetched { .. } => false,
            Self::Archive { .. } => true,
        }
    }

    /// Adds what it is to a key.
    pub(crate) fn key(&self, source: &mut dyn Root, keying: &mut Keying) -> Result<(), Fault> {
        match self {
            Self::Tree { name, at, found } => {
                keying.text("tree");
                keying.number(u64::try_from(found.len()).unwrap_or(u64::MAX));
                keying.bytes(name.as_encoded_bytes());
                keying.bytes(at.as_os_str().as_encoded_bytes());
                for one in found {
                    keying.bytes(one.to.as_os_str().as_encoded_bytes());
                    keying.entry(source, &one.from, &one.entry)?;
                }
            }
            Self::Text { name, content } => {
                keying.texts(["text", name.as_str(), content].into_iter());
            }
            Self::Fetched { name, fetched } => {
                keying.texts(["fetched", fetched.digest.as_str()].into_iter());
                keying.maybe(name.as_deref());
            }
            Self::Archive { path, format } => {
                keying.text(&format!("archive, {format:?}"));
                if let Some(file) = entry(source, path)? {
                    keying.entry(source, path, &file)?;
                }
            }
        }
        Ok(())
    }
}

/// The name of a file at an address: its path's last part.
pub(crate) fn name_at(address: &str) -> Option<&str> {
    let path = address.split(['?', '#']).next()?;
    let (_, path) = path.split_once("://")?;
    let (_, name) = path.rsplit_once('/')?;
    let is_name = !matches!(name, "" | "." | "..");
    is_name.then_some(name)
}

/// What a word names in a tree; `missing` says why there is nothing.
pub(crate) fn select(
    source: &mut dyn Root,
    word: &str,
    taking: &Taking,
    missing: &dyn Fn(&str) -> String,
) -> Result<Vec<Item>, Fault> {
    let (mut items, mut any) = (Vec::new(), false);
    for named in named(source, word)? {
        let path = resolve_in(source, &named)?;
        let Some(top) = entry(source, &path)? else {
            continue;
        };
        any = true;
        if taking.excludes(&named)
            || named
                .file_name()
                .is_some_and(|name| taking.excludes(name.as_ref()))
        {
            continue;
        }
        let format = match taking.add && top.kind == Kind::File {
            true => archive::format(source, &path)?,
            false => None,
        };
        if let Some(format) = format {
            items.push(Item::Archive { path, format });
            continue;
        }
        items.push(Item::Tree {
            name: named.file_name().map(OsStr::to_owned).unwrap_or_default(),
            at: taking.parents(word, &named, top.kind == Kind::Directory),
            found: walk(source, path, top, &|to| taking.excludes(to))?,
        });
    }
    match any {
        true => Ok(items),
        false => Err(missing(word).into()),
    }
}

/// The paths that match a word, part by part.
fn named(source: &mut dyn Root, word: &str) -> Result<Vec<PathBuf>, Fault> {
    let mut paths = vec![PathBuf::new()];
    for part in word
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        if !Glob::is_special(part) {
            paths.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let glob = Glob::new(part, false)?;
        let mut matching = Vec::new();
        for path in paths {
            let directory = resolve_in(source, &path)?;
            let found = entry(source, &directory)?;
            if found.is_none_or(|found| found.kind != Kind::Directory) {
                continue;
            }
            let names = names(source, &directory)?;
            let matched = names
                .iter()
                .filter(|name| glob.matches(&name.to_string_lossy()));
            matching.extend(matched.map(|name| path.join(name)));
        }
        paths = matching;
    }
    Ok(paths)
}

/// A file, or a directory and everything in it that is not left out, sorted, a directory before what is
/// in it.
fn walk(
    source: &mut dyn Root,
    path: PathBuf,
    top: Entry,
    excludes: &dyn Fn(&Path) -> bool,
) -> Result<Vec<Found>, Fault> {
    let mut found = Vec::new();
    let mut left = vec![(path, PathBuf::new(), top)];
    while let Some((from, to, this)) = left.pop() {
        if excludes(&to) {
            continue;
        }
        if this.kind == Kind::Other {
            return Err(unusable(&from).into());
        }
        if this.kind == Kind::Directory {
            for name in names(source, &from)?.into_iter().rev() {
                let path = from.join(&name);
                if let Some(inner) = entry(source, &path)? {
                    left.push((path, to.join(name), inner));
                }
            }
        }
        found.push(Found {
            from,
            to,
            entry: this,
        });
    }
    Ok(found)
}

fn unusable(path: &Path) -> String {
    format!(
        "/{} is a device, a pipe or a socket, which is not copied; hide it with .dockerignore, or copy what \
         is around it",
        path.display()
    )
}
