//! Keys: what the result of an instruction depends on, as one number. No time is part of it.

use std::{fmt, io, path::Path};

use crate::{
    error::Fault,
    mounts::{Mount, MountKind},
    root::{Entry, Kind, Root},
    worker::{Layer, Network, Run},
};

/// What the result of an instruction depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key in the making. Everything is preceded by its length or its number, so that no two lists of
/// parts are the same bytes.
#[derive(Debug)]
pub(crate) struct Keying(blake3::Hasher);

impl Keying {
    /// `what` is what is done to the layers.
    pub(crate) fn new(what: &str, layers: &[Layer]) -> Self {
        let mut keying = Self(blake3::Hasher::new_derive_key("crumble build key 1"));
        keying.text(what);
        keying.layers(layers);
        keying
    }

    pub(crate) fn key(&self) -> Key {
        Key(*self.0.finalize().as_bytes())
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.update(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn texts<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a str>) {
        self.number(u64::try_from(texts.len()).unwrap_or(u64::MAX));
        texts.for_each(|text| self.text(text));
    }

    /// A text that may be missing.
    pub(crate) fn maybe(&mut self, text: Option<&str>) {
        self.texts(text.into_iter());
    }

    fn layers(&mut self, layers: &[Layer]) {
        self.texts(layers.iter().map(|layer| layer.0.as_str()));
    }

    /// A name in a tree, and its contents.
    pub(crate) fn entry(
        &mut self,
        root: &mut dyn Root,
        path: &Path,
        entry: &Entry,
    ) -> Result<(), Fault> {
        for number in [entry.mode, entry.uid, entry.gid] {
            self.number(number.into());
        }
        self.number(u64::try_from(entry.xattrs.len()).unwrap_or(u64::MAX));
        for (name, value) in &entry.xattrs {
            self.text(name);
            self.bytes(value);
        }
        match &entry.kind {
            Kind::Directory => self.number(0),
            Kind::Other => self.number(1),
            Kind::Symlink(target) => {
                self.number(2);
                self.bytes(target.as_os_str().as_encoded_bytes());
            }
            Kind::File => {
                self.number(3);
                self.contents(root, path)?;
            }
        }
        Ok(())
    }

    fn contents(&mut self, root: &mut dyn Root, path: &Path) -> Result<(), Fault> {
        let action = || format!("read /{}", path.display());
        let mut file = root.open(path).map_err(Fault::failed(action()))?;
        let mut digest = blake3::Hasher::new();
        io::copy(&mut file, &mut digest).map_err(Fault::failed(action()))?;
        self.bytes(digest.finalize().as_bytes());
        Ok(())
    }

    /// A command; of its environment only `env`.
    pub(crate) fn run(&mut self, run: &Run, env: &[String]) {
        self.texts(run.argv.iter().map(String::as_str));
        self.texts(env.iter().map(String::as_str));
        for text in [&run.user, &run.cwd, &run.platform] {
            self.text(text);
        }
        self.number(u64::from(run.network == Network::None));
        self.maybe(run.script.as_ref().map(|script| script.content.as_str()));
        self.number(u64::try_from(run.mounts.len()).unwrap_or(u64::MAX));
        run.mounts.iter().for_each(|mount| self.mount(mount));
    }

    /// What a mount is; of caches and secrets nobody knows what is in them.
    fn mount(&mut self, mount: &Mount) {
        self.maybe(mount.target.as_deref());
        match &mount.kind {
            MountKind::Bind {
                layers,
                source,
                writable,
            } => {
                self.number(u64::from(*writable));
                self.text(source);
                self.layers(layers);
            }
            other => self.text(&format!("{other:?}")),
        }
    }
}
