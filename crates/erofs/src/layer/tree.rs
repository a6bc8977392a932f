//! The names and inodes of a layer, in memory.

use std::collections::BTreeMap;

use super::blocks::Stored;
use super::path::{components, wrong};
use crate::{Attributes, Error, Result, Special, shown};

/// The most directories within each other.
const DEPTH: u32 = 1024;

/// The most symbolic links of one path, as in Linux.
const LINKS: u32 = 40;

/// The most components of one path, those of links on the way among them.
const STEPS: usize = 4096;

/// Which inode. Those that were replaced stay, without a name.
pub(super) type Id = usize;

/// The root's.
pub(super) const ROOT: Id = 0;

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) attributes: Attributes,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Directory(Directory),
    File(Stored),
    Symlink(Box<[u8]>),
    Special(Special),
    Whiteout,
}

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) entries: BTreeMap<Box<[u8]>, Id>,
    /// The root is its own.
    pub(super) parent: Id,
    /// Of directories above it.
    depth: u32,
    /// It hides what lower layers have in it.
    pub(super) opaque: bool,
    /// Nobody gave its attributes.
    pub(super) implicit: bool,
}

impl Directory {
    const fn new(parent: Id, depth: u32, opaque: bool) -> Self {
        Self {
            entries: BTreeMap::new(),
            parent,
            depth,
            opaque,
            implicit: true,
        }
    }
}

/// Where an entry goes.
#[derive(Debug)]
pub(super) struct Place {
    directory: Id,
    name: Box<[u8]>,
}

/// How much there may be, and how much of it is left.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    what: &'static str,
    most: u64,
    left: u64,
}

impl Allowance {
    const fn new(what: &'static str, most: u64) -> Self {
        Self {
            what,
            most,
            left: most,
        }
    }

    fn take(&mut self, amount: usize) -> Result<()> {
        let left = self.left.checked_sub(amount as u64);
        self.left = left.ok_or(Error::Limit {
            what: self.what,
            most: self.most,
        })?;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    inodes: Vec<Inode>,
    entries: Allowance,
    names: Allowance,
}

impl Tree {
    /// With a root, and room for so many entries and bytes of names.
    pub(super) fn new(entries: u64, names: u64) -> Self {
        let root = Inode {
            attributes: Attributes::implicit(),
            body: Body::Directory(Directory::new(ROOT, 0, false)),
        };
        Self {
            inodes: vec![root],
            entries: Allowance::new("entries", entries),
            names: Allowance::new("bytes of names and attributes", names),
        }
    }

    /// Takes `bytes` of what names and the like may need.
    pub(super) fn account(&mut self, bytes: usize) -> Result<()> {
        self.names.take(bytes)
    }

    /// How many inodes there are, named or not.
    pub(super) fn count(&self) -> usize {
        self.inodes.len()
    }

    pub(super) fn get(&self, id: Id) -> Option<&Inode> {
        self.inodes.get(id)
    }

    pub(super) fn directory(&self, id: Id) -> Option<&Directory> {
        match &self.get(id)?.body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: Id) -> Option<&mut Directory> {
        match &mut self.inodes.get_mut(id)?.body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn lookup(&self, directory: Id, name: &[u8]) -> Option<Id> {
        self.directory(directory)?.entries.get(name).copied()
    }

    /// Where the entry `path` goes, whose parents are made if they are missing.
    pub(super) fn place(&mut self, path: &[u8]) -> Result<Place> {
        let components = components(path)?;
        let (name, parents) = components.split_last().ok_or_else(|| Error::Path {
            path: shown(path),
            why: "it is the root, which is a directory",
        })?;
        self.entries.take(1)?;
        self.names.take(name.len())?;
        Ok(Place {
            directory: self.walk(path, parents)?,
            name: (*name).into(),
        })
    }

    /// Puts something other than a directory in its place.
    pub(super) fn put(&mut self, place: Place, attributes: Attributes, body: Body) -> Result<()> {
        self.names.take(weight(&attributes))?;
        let id = self.add(Inode { attributes, body });
        self.name(place, id);
        Ok(())
    }

    /// A directory with these attributes; one that is there keeps what is in it.
    pub(super) fn put_directory(&mut self, path: &[u8], attributes: Attributes) -> Result<()> {
        self.names.take(weight(&attributes))?;
        let components = components(path)?;
        let id = match components.split_last() {
            None => ROOT,
            Some((name, parents)) => {
                let parent = self.walk(path, parents)?;
                match self.lookup(parent, name) {
                    Some(id) if self.directory(id).is_some() => {
                        self.entries.take(1)?;
                        id
                    }
                    _ => self.make(path, parent, name)?,
                }
            }
        };
        if let Some(directory) = self.directory_mut(id) {
            directory.implicit = false;
        }
        if let Some(inode) = self.inodes.get_mut(id) {
            inode.attributes = attributes;
        }
        Ok(())
    }

    /// Another name for what is at `target`.
    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let refuse = |why| Error::HardLink {
            path: shown(path),
            target: shown(target),
            why,
        };
        let names = components(target)?;
        let found = match names.split_last() {
            None => Some(ROOT),
            Some((name, parents)) => self
                .find(target, parents)?
                .and_then(|parent| self.lookup(parent, name)),
        };
        let id = found.ok_or_else(|| refuse("there is no such file in this layer"))?;
        match self.get(id).map(|inode| &inode.body) {
            Some(Body::Directory(_)) => return Err(refuse("that is a directory")),
            Some(Body::Whiteout) => return Err(refuse("this layer removes that")),
            _ => {}
        }
        let place = self.place(path)?;
        self.name(place, id);
        Ok(())
    }

    /// Hides what is at `path` in lower layers.
    pub(super) fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let place = self.place(path)?;
        match self.lookup(place.directory, &place.name) {
            Some(id) => {
                if let Some(directory) = self.directory_mut(id) {
                    directory.opaque = true;
                }
            }
            None => self.put(place, Attributes::default(), Body::Whiteout)?,
        }
        Ok(())
    }

    /// Hides what is in the directory `path` in lower layers.
    pub(super) fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let components = components(path)?;
        self.entries.take(1)?;
        let id = self.walk(path, &components)?;
        if let Some(directory) = self.directory_mut(id) {
            directory.opaque = true;
        }
        Ok(())
    }

    fn add(&mut self, inode: Inode) -> Id {
        self.inodes.push(inode);
        self.inodes.len().saturating_sub(1)
    }

    /// Gives `id` its name, in place of whatever had it.
    fn name(&mut self, place: Place, id: Id) {
        if let Some(directory) = self.directory_mut(place.directory) {
            directory.entries.insert(place.name, id);
        }
    }

    /// A new directory called `name`. In the place of something else it hides lower layers.
    fn make(&mut self, path: &[u8], parent: Id, name: &[u8]) -> Result<Id> {
        self.entries.take(1)?;
        self.names.take(name.len())?;
        let above = self.directory(parent).map_or(DEPTH, |above| above.depth);
        let depth = above.saturating_add(1);
        if depth > DEPTH {
            return Err(Error::Path {
                path: shown(path),
                why: "it is more than 1024 directories deep",
            });
        }
        let opaque = self.lookup(parent, name).is_some();
        let id = self.add(Inode {
            attributes: Attributes::implicit(),
            body: Body::Directory(Directory::new(parent, depth, opaque)),
        });
        let place = Place {
            directory: parent,
            name: name.into(),
        };
        self.name(place, id);
        Ok(id)
    }

    /// The directory that `names` lead to; what is missing is made.
    fn walk(&mut self, path: &[u8], names: &[&[u8]]) -> Result<Id> {
        let mut walk = Walk::new(path, names);
        while let Some(name) = walk.pending.pop() {
            if walk.step(self, &name)?.is_none() {
                walk.at = self.make(path, walk.at, &name)?;
            }
        }
        Ok(walk.at)
    }

    /// The directory that `names` lead to, if it is there.
    fn find(&self, path: &[u8], names: &[&[u8]]) -> Result<Option<Id>> {
        let mut walk = Walk::new(path, names);
        while let Some(name) = walk.pending.pop() {
            if walk.step(self, &name)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(walk.at))
    }
}

/// Bytes that attributes need.
fn weight(attributes: &Attributes) -> usize {
    let xattrs = attributes.xattrs.iter();
    // With what a map needs for each.
    let one = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        name.len().saturating_add(value.len()).saturating_add(64)
    };
    xattrs.map(one).fold(0, usize::saturating_add)
}

/// On the way to a directory.
struct Walk<'a> {
    path: &'a [u8],
    at: Id,
    /// The next component is the last one.
    pending: Vec<Box<[u8]>>,
    steps: usize,
    links: u32,
}

impl<'a> Walk<'a> {
    fn new(path: &'a [u8], names: &[&[u8]]) -> Self {
        Self {
            path,
            at: ROOT,
            pending: names.iter().rev().map(|name| (*name).into()).collect(),
            steps: 0,
            links: 0,
        }
    }

    /// Takes one component, following links. `None` if there is nothing, or a whiteout.
    fn step(&mut self, tree: &Tree, name: &[u8]) -> Result<Option<()>> {
        if name == b".." {
            let parent = tree.directory(self.at).map(|directory| directory.parent);
            self.at = parent.unwrap_or(ROOT);
            return Ok(Some(()));
        }
        let Some(id) = tree.lookup(self.at, name) else {
            return Ok(None);
        };
        match tree.get(id).map(|inode| &inode.body) {
            Some(Body::Directory(_)) => self.at = id,
            Some(Body::Symlink(target)) => self.follow(target)?,
            Some(Body::Whiteout) | None => return Ok(None),
            Some(Body::File(_) | Body::Special(_)) => {
                return Err(Error::NotDirectory {
                    path: shown(self.path),
                    at: shown(name),
                });
            }
        }
        Ok(Some(()))
    }

    fn follow(&mut self, target: &[u8]) -> Result<()> {
        let names = target.split(|byte| *byte == b'/');
        let names: Vec<_> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
        self.links = self.links.saturating_add(1);
        self.steps = self.steps.saturating_add(names.len());
        if self.links > LINKS || self.steps > STEPS {
            return Err(Error::Loop(shown(self.path)));
        }
        if let Some(why) = names.iter().find_map(|name| wrong(name)) {
            let path = shown(self.path);
            return Err(Error::Path { path, why });
        }
        if target.starts_with(b"/") {
            self.at = ROOT;
        }
        self.pending.extend(names.into_iter().rev().map(Box::from));
        Ok(())
    }
}
