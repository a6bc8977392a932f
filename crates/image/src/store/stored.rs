//! An image that is whole in the store.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    Store,
    names::{self, Entry},
};
use crate::{
    Config, Descriptor, Digest, Document, Error, Manifest, Platform, Result, config, manifest,
    origin::Resolved,
};

/// As long as it lives, what is in the store stays there.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "its life is the lock's")] File);

impl Hold {
    pub(super) fn new(lock: File) -> Self {
        Self(lock)
    }
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// As it came.
    pub blob: Descriptor,
    /// The digest of the archive in it.
    pub diff_id: Digest,
}

/// An image, whole, with all its layers unpacked. Pruning has to wait until this is dropped; the
/// layers' files can be used on if they have been opened.
#[derive(Debug)]
pub struct Stored {
    pub(super) name: String,
    pub(super) descriptor: Descriptor,
    pub(super) config: Config,
    pub(super) config_digest: Digest,
    pub(super) layers: Vec<Layer>,
    pub(super) paths: Vec<PathBuf>,
    pub(super) hold: Hold,
}

impl Stored {
    /// What it is called here.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is to be run.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The files that its layers were unpacked to, base first.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.paths.iter().map(PathBuf::as_path)
    }

    /// Its layers as they came, base first.
    #[must_use]
    pub fn blobs(&self) -> &[Layer] {
        &self.layers
    }

    /// The digest of its manifest: that of one platform, also if its name leads to several.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    /// The digest of its configuration, which is the same wherever the image is and however it is
    /// compressed.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.config_digest
    }

    /// What keeps it.
    #[must_use]
    pub fn hold(&self) -> &Hold {
        &self.hold
    }
}

/// An image in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its name, whole.
    pub name: String,
    /// What it is for.
    pub platform: Platform,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The digest of its configuration.
    pub id: Digest,
    /// Bytes of its layers as they came.
    pub size: u64,
    /// When it was made, as it says.
    pub created: Option<String>,
}

/// The documents of an image as they came: JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The manifest.
    pub manifest: String,
    /// The configuration.
    pub config: String,
}

/// The documents of an image, read.
pub(super) struct Documents {
    pub(super) resolved: Resolved,
    pub(super) config: Config,
    pub(super) layers: Vec<Layer>,
}

impl Store {
    /// All images, by name. One whose documents are damaged is left out.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Configuration`] if the list of names is damaged.
    pub fn list(&self) -> Result<Vec<Summary>> {
        let _hold = self.hold()?;
        let summary = |entry: Entry| {
            let documents = self.documents(&entry).ok()?;
            let sizes = documents.layers.iter().map(|layer| layer.blob.size);
            Some(Summary {
                name: entry.name,
                platform: entry.platform,
                digest: entry.manifest.digest,
                id: documents.resolved.manifest.config.digest,
                size: sizes.fold(0, u64::saturating_add),
                created: documents.config.created,
            })
        };
        Ok(self.entries()?.into_iter().filter_map(summary).collect())
    }

    /// The documents of an image.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none of this name for this platform.
    pub fn inspect(&self, name: &str, platform: &Platform) -> Result<Raw> {
        let _hold = self.hold()?;
        let entry = self.known(name, platform)?;
        let documents = self.documents(&entry)?;
        let config = self.document(documents.resolved.manifest.config.digest)?;
        let text =
            |bytes| String::from_utf8(bytes).map_err(|_| Error::malformed(name, "it is not UTF-8"));
        Ok(Raw {
            manifest: text(documents.resolved.bytes)?,
            config: text(config)?,
        })
    }

    /// Gives an image another name as well, for all platforms that it is here for.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none of this name.
    pub fn tag(&self, name: &str, new: &spec::Reference) -> Result<()> {
        let _hold = self.hold()?;
        let from = names::whole(name);
        let entries = self
            .entries()?
            .into_iter()
            .filter(|entry| entry.name == from);
        let entries: Vec<Entry> = entries.collect();
        if entries.is_empty() {
            return Err(Error::Missing(from));
        }
        let named = |entry| {
            self.name(Entry {
                name: new.to_string(),
                ..entry
            })
        };
        entries.into_iter().try_for_each(named)
    }

    /// Forgets a name. What nothing else needs stays until [`Self::prune`].
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none of this name.
    pub fn remove(&self, name: &str) -> Result<()> {
        let _hold = self.hold()?;
        let name = names::whole(name);
        let removed = self.change(|entries| {
            let before = entries.len();
            entries.retain(|entry| entry.name != name);
            before != entries.len()
        })?;
        match removed {
            true => Ok(()),
            false => Err(Error::Missing(name)),
        }
    }

    /// The entry of an image that has to be there.
    pub(super) fn known(&self, name: &str, platform: &Platform) -> Result<Entry> {
        let entry = self.entry(name, platform)?;
        entry.ok_or_else(|| Error::Missing(format!("{} for {platform}", names::whole(name))))
    }

    /// The manifest of an image.
    pub(super) fn resolved(&self, entry: &Entry) -> Result<Resolved> {
        let bytes = self.document(entry.manifest.digest)?;
        match manifest::parse(&entry.name, Some(&entry.manifest.media_type), &bytes)? {
            Document::Manifest(manifest) => Ok(Resolved {
                descriptor: entry.manifest.clone(),
                bytes,
                manifest,
            }),
            Document::Index(_) => Err(Error::malformed(&entry.name, "it is an index")),
        }
    }

    /// The manifest and the configuration of an image.
    pub(super) fn documents(&self, entry: &Entry) -> Result<Documents> {
        let resolved = self.resolved(entry)?;
        let bytes = self.document(resolved.manifest.config.digest)?;
        let (config, diff_ids) = config::parse(&entry.name, &bytes)?;
        let layers = layers(&entry.name, &resolved.manifest, diff_ids)?;
        Ok(Documents {
            resolved,
            config,
            layers,
        })
    }
}

/// What the manifest and what the configuration says of layers, together.
pub(super) fn layers(name: &str, manifest: &Manifest, diff_ids: Vec<Digest>) -> Result<Vec<Layer>> {
    if manifest.layers.len() != diff_ids.len() {
        let reason = "its manifest and its configuration have different numbers of layers";
        return Err(Error::malformed(name, reason));
    }
    let both = manifest.layers.iter().cloned().zip(diff_ids);
    Ok(both
        .map(|(blob, diff_id)| Layer { blob, diff_id })
        .collect())
}
