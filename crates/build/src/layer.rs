//! A layer of what is copied: an archive that depends on what is copied and on the root below, and on
//! nothing else.
//!
//! All directories above what is copied are in it, with what they have in the root, since in an overlay
//! those of the topmost layer count.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use tar::{Builder, EntryType, Header};

use crate::{
    archive,
    chmod::Chmod,
    copy::{Found, Item},
    error::Fault,
    root::{Entry, Kind, Root, entry, resolve},
};

/// A name that would hide another one (OCI image specification, "Whiteouts").
const WHITEOUT: &str = ".wh.";

/// Where things go, and whose they are then.
#[derive(Debug, Default)]
pub(crate) struct Target {
    /// An absolute path; links in it are not followed yet.
    pub(crate) path: String,
    /// Whether it is a directory because it was written so.
    pub(crate) is_directory: bool,
    /// `None` for the owners of the sources.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) chmod: Option<Chmod>,
}

/// Writes a layer over a root.
pub(crate) struct Writer<'a> {
    archive: Builder<&'a mut dyn Write>,
    root: &'a mut dyn Root,
    target: &'a Target,
    /// What is in the layer already.
    made: BTreeMap<PathBuf, Kind>,
}

/// What an archive may have and a tree does not: hard links and devices.
struct Special {
    kind: EntryType,
    link: Option<PathBuf>,
    device: Option<(u32, u32)>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, root: &'a mut dyn Root, target: &'a Target) -> Self {
        Self {
            archive: Builder::new(out),
            root,
            target,
            made: BTreeMap::new(),
        }
    }

    pub(crate) fn finish(mut self) -> Result<(), Fault> {
        self.archive
            .finish()
            .map_err(Fault::failed("write the layer"))
    }

    /// Makes the target a directory, unless it is one.
    pub(crate) fn directory(&mut self) -> Result<(), Fault> {
        let path = self.resolved(Path::new(&self.target.path), true)?;
        self.within(&path)
    }

    /// Copies items from a tree.
    pub(crate) fn copy(&mut self, source: &mut dyn Root, items: &[Item]) -> Result<(), Fault> {
        let path = self.resolved(Path::new(&self.target.path), true)?;
        let into = self.target.is_directory || self.kind(&path)? == Some(Kind::Directory);
        if !into && items.len() > 1 {
            return Err(format!(
                "several files are copied to {}, which is no directory; end it with /",
                self.target.path
            )
            .into());
        }
        items
            .iter()
            .try_for_each(|item| self.item(source, &path, into, item))
    }

    /// Copies an item to a path, or `into` the directory there.
    fn item(
        &mut self,
        source: &mut dyn Root,
        path: &Path,
        into: bool,
        item: &Item,
    ) -> Result<(), Fault> {
        let path = match item {
            // Joined with nothing, a path would end with a slash.
            Item::Tree { at, .. } if item.is_directory() => path.iter().chain(at).collect(),
            Item::Tree { name, at, .. } if into => path.join(at).join(name),
            Item::Text { name, .. } if into => path.join(name),
            Item::Fetched { name, .. } if into => {
                let name = name.as_ref().ok_or_else(|| {
                    "the address does not end with a file's name; write what to call it".to_owned()
                })?;
                path.join(name)
            }
            _ => path.to_owned(),
        };
        match item {
            Item::Tree { found, .. } if item.is_directory() => self.tree(source, &path, found),
            Item::Tree { found, .. } => {
                let mut found = found.iter();
                found.try_for_each(|one| self.file(source, &path, one))
            }
            Item::Text { content, .. } => {
                let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
                let this = made(Kind::File, 0o644, size);
                self.check(&path, false)?;
                self.add(
                    &path,
                    this,
                    &Special::of(&Kind::File),
                    &mut content.as_bytes(),
                )
            }
            Item::Fetched { fetched, .. } => {
                let action = "read what was fetched";
                let (mut file, size) = fetched.open().map_err(Fault::failed(action))?;
                // As BuildKit has it, and docker before.
                let this = made(Kind::File, 0o600, size);
                self.check(&path, false)?;
                self.add(&path, this, &Special::of(&Kind::File), &mut file)
            }
            Item::Archive { path: from, format } => {
                let mut contents = archive::decompressed(source, from, *format)?;
                self.unpack(&path, from, &mut *contents)
            }
        }
    }

    /// Copies what is in a directory.
    fn tree(&mut self, source: &mut dyn Root, to: &Path, found: &[Found]) -> Result<(), Fault> {
        let mut found = found.iter();
        // A directory that is there stays as it is; a new one is like its source.
        match (self.kind(to)?, found.next()) {
            (None, Some(top)) => self.file(source, to, top)?,
            _ => self.within(to)?,
        }
        found.try_for_each(|one| self.file(source, &to.join(&one.to), one))
    }

    /// Copies one name.
    fn file(&mut self, source: &mut dyn Root, path: &Path, found: &Found) -> Result<(), Fault> {
        let this = found.entry.clone();
        let special = Special::of(&this.kind);
        self.check(path, this.kind == Kind::Directory)?;
        if this.kind != Kind::File {
            return self.add(path, this, &special, &mut io::empty());
        }
        let action = format!("read /{}", found.from.display());
        let mut contents = source.open(&found.from).map_err(Fault::failed(action))?;
        self.add(path, this, &special, &mut contents)
    }

    /// Makes sure that a name may be written, and writes the directories above it.
    fn check(&mut self, path: &Path, is_directory: bool) -> Result<(), Fault> {
        match self.kind(path)? {
            Some(Kind::Directory) if !is_directory => Err(clash(
                path,
                "is a directory in the image, and a file is copied to it",
            )),
            Some(kind) if is_directory && kind != Kind::Directory => Err(clash(
                path,
                "is no directory in the image, and one is copied to it",
            )),
            _ => self.place(path),
        }
    }

    /// Unpacks an archive.
    fn unpack(&mut self, to: &Path, from: &Path, contents: &mut dyn Read) -> Result<(), Fault> {
        let action = || format!("unpack /{}", from.display());
        self.within(to)?;
        let mut archive = tar::Archive::new(contents);
        for member in archive.entries().map_err(Fault::failed(action()))? {
            let mut member = member.map_err(Fault::failed(action()))?;
            let Some(name) = inside(&member.path().map_err(Fault::failed(action()))?) else {
                return Err(format!("/{} has a path with .. in it", from.display()).into());
            };
            if name.as_os_str().is_empty() {
                continue;
            }
            let path = self.resolved(&to.join(name), false)?;
            let read = self.member(to, &mut member);
            let Some((this, special)) = read.map_err(Fault::failed(action()))? else {
                continue;
            };
            let missing = |link: &PathBuf| !self.made.contains_key(link);
            if special.kind == EntryType::Link && special.link.as_ref().is_none_or(missing) {
                return Err(clash(
                    &path,
                    "is a hard link to what is not before it in the archive",
                ));
            }
            self.place(&path)?;
            self.add(&path, this, &special, &mut member)?;
        }
        Ok(())
    }

    /// What a member of an archive is; `None` if it is only about others.
    fn member<R: Read>(
        &mut self,
        to: &Path,
        member: &mut tar::Entry<'_, R>,
    ) -> io::Result<Option<(Entry, Special)>> {
        let header = member.header().clone();
        // Some archives leave empty what they do not know.
        let number =
            |field: io::Result<u64>| u32::try_from(field.unwrap_or(0)).map_err(io::Error::other);
        let device = |field: io::Result<Option<u32>>| field.ok().flatten().unwrap_or(0);
        let link = member.link_name()?.map(std::borrow::Cow::into_owned);
        let (kind, link) = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => (Kind::File, None),
            EntryType::Directory => (Kind::Directory, None),
            EntryType::Symlink => (Kind::Symlink(link.clone().unwrap_or_default()), link),
            EntryType::Link => {
                let link = link.as_deref().and_then(inside).unwrap_or_default();
                let link = self
                    .resolved(&to.join(link), false)
                    .map_err(io::Error::other)?;
                (Kind::File, Some(link))
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => (Kind::Other, None),
            EntryType::XGlobalHeader => return Ok(None),
            other => {
                return Err(io::Error::other(format!(
                    "it has something of kind {other:?}"
                )));
            }
        };
        let special = Special {
            kind: match &kind {
                Kind::File if link.is_none() => EntryType::Regular,
                _ => header.entry_type(),
            },
            device: (kind == Kind::Other)
                .then_some((device(header.device_major()), device(header.device_minor()))),
            link,
        };
        let this = Entry {
            size: match special.kind {
                EntryType::Regular => member.size(),
                _ => 0,
            },
            kind,
            mode: header.mode()? & 0o7777,
            uid: number(header.uid())?,
            gid: number(header.gid())?,
            mtime: header.mtime().unwrap_or(0),
            xattrs: xattrs(member)?,
        };
        Ok(Some((this, special)))
    }

    /// Writes the directories above a path.
    fn place(&mut self, path: &Path) -> Result<(), Fault> {
        path.parent().map_or(Ok(()), |parent| self.within(parent))
    }

    /// Writes a directory and those above it, unless they are in the layer.
    fn within(&mut self, directory: &Path) -> Result<(), Fault> {
        let mut above: Vec<&Path> = directory.ancestors().collect();
        // The top has no name.
        above.pop();
        for path in above.into_iter().rev() {
            match self.made.get(path) {
                Some(Kind::Directory) => continue,
                Some(_) => return Err(clash(path, "is no directory")),
                None => {}
            }
            match entry(self.root, path)? {
                Some(there) if there.kind == Kind::Directory => self.keep(path, &there)?,
                Some(_) => return Err(clash(path, "is no directory in the image")),
                None => {
                    let (uid, gid) = self.target.owner.unwrap_or((0, 0));
                    let new = made(Kind::Directory, 0o755, 0);
                    self.keep(path, &Entry { uid, gid, ..new })?;
                }
            }
        }
        Ok(())
    }

    fn kind(&mut self, path: &Path) -> Result<Option<Kind>, Fault> {
        kind(&self.made, self.root, path)
    }

    /// A path with its links followed, by what is in the layer and in the root.
    fn resolved(&mut self, path: &Path, last: bool) -> Result<PathBuf, Fault> {
        let (made, root) = (&self.made, &mut *self.root);
        resolve(&mut |path| kind(made, root, path), path, last)
    }

    /// Writes a name with the owner and the permissions that were asked for.
    fn add(
        &mut self,
        path: &Path,
        mut this: Entry,
        special: &Special,
        contents: &mut dyn Read,
    ) -> Result<(), Fault> {
        if let Some((uid, gid)) = self.target.owner {
            (this.uid, this.gid) = (uid, gid);
        }
        if let Some(chmod) = self.target.chmod.as_ref() {
            this.mode = chmod.apply(this.mode, this.kind == Kind::Directory);
        }
        self.append(path, &this, special, contents)
    }

    /// Writes a directory as it is.
    fn keep(&mut self, path: &Path, this: &Entry) -> Result<(), Fault> {
        self.append(path, this, &Special::of(&this.kind), &mut io::empty())
    }

    fn append(
        &mut self,
        path: &Path,
        this: &Entry,
        special: &Special,
        contents: &mut dyn Read,
    ) -> Result<(), Fault> {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(WHITEOUT.as_bytes()) {
            return Err(clash(
                path,
                "cannot be in an image: a name with .wh. before it hides another one",
            ));
        }
        let action = || format!("write /{}", path.display());
        self.write(path, this, special, contents)
            .map_err(Fault::failed(action()))?;
        self.made.insert(path.to_owned(), this.kind.clone());
        Ok(())
    }

    fn write(
        &mut self,
        path: &Path,
        this: &Entry,
        special: &Special,
        contents: &mut dyn Read,
    ) -> io::Result<()> {
        let mut names: Vec<(String, &[u8])> = Vec::new();
        for (name, value) in &this.xattrs {
            names.push((format!("SCHILY.xattr.{name}"), value));
        }
        let pairs = names.iter().map(|(name, value)| (name.as_str(), *value));
        if !names.is_empty() {
            self.archive.append_pax_extensions(pairs)?;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(special.kind);
        header.set_mode(this.mode);
        header.set_uid(this.uid.into());
        header.set_gid(this.gid.into());
        header.set_mtime(this.mtime);
        header.set_size(this.size);
        if let Some((major, minor)) = special.device {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        if let Some(link) = &special.link {
            // As it is written, if there is room; a longer one goes before the header.
            if header
                .set_link_name_literal(link.as_os_str().as_encoded_bytes())
                .is_err()
            {
                return self.archive.append_link(&mut header, path, link);
            }
        }
        let mut limited = contents.take(this.size);
        self.archive.append_data(&mut header, path, &mut limited)?;
        match limited.limit() {
            0 => Ok(()),
            _ => Err(io::Error::other(
                "it became shorter while it was read; build again",
            )),
        }
    }
}

impl Special {
    fn of(kind: &Kind) -> Self {
        let (kind, link) = match kind {
            Kind::Directory => (EntryType::Directory, None),
            Kind::Symlink(target) => (EntryType::Symlink, Some(target.clone())),
            Kind::File | Kind::Other => (EntryType::Regular, None),
        };
        Self {
            kind,
            link,
            device: None,
        }
    }
}

fn kind(
    made: &BTreeMap<PathBuf, Kind>,
    root: &mut dyn Root,
    path: &Path,
) -> Result<Option<Kind>, Fault> {
    match made.get(path) {
        Some(kind) => Ok(Some(kind.clone())),
        None if path.as_os_str().is_empty() => Ok(Some(Kind::Directory)),
        None => Ok(entry(root, path)?.map(|entry| entry.kind)),
    }
}

/// Something that was not there before, and has no time.
fn made(kind: Kind, mode: u32, size: u64) -> Entry {
    Entry {
        kind,
        mode,
        uid: 0,
        gid: 0,
        size,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

fn clash(path: &Path, reason: &str) -> Fault {
    Fault::Reason(format!("/{} {reason}", path.display()))
}

/// A path of an archive, relative to where it is unpacked; `None` if it leads out.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => inside.push(part),
            Component::ParentDir => return None,
            _ => {}
        }
    }
    Some(inside)
}

fn xattrs<R: Read>(member: &mut tar::Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = member.pax_extensions()? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for extension in extensions {
        let extension = extension?;
        let name = extension
            .key()
            .ok()
            .and_then(|key| key.strip_prefix("SCHILY.xattr."));
        if let Some(name) = name {
            found.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}
