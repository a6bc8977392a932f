//! Removing what no image needs.

use std::{collections::BTreeSet, ffi::OsString, fs, path::Path};

use super::{Store, names::Entry};
use crate::{Error, Result, error::file};

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Store {
    /// Removes blobs and layers that belong to no image, and what was left unfinished. An image whose
    /// documents are damaged is forgotten.
    ///
    /// # Errors
    /// [`Error::Busy`] if anything is held, [`Error::File`].
    pub fn prune(&self) -> Result<Pruned> {
        let _alone = self.alone()?;
        let (mut blobs, mut layers) = (BTreeSet::new(), BTreeSet::new());
        let mut damaged = Vec::new();
        for entry in self.entries()? {
            match self.documents(&entry) {
                Ok(documents) => {
                    let manifest = documents.resolved.manifest;
                    blobs.insert(entry.manifest.digest.hex());
                    blobs.insert(manifest.config.digest.hex());
                    blobs.extend(documents.layers.iter().map(|layer| layer.blob.digest.hex()));
                    layers.extend(documents.layers.iter().map(|layer| layer.diff_id.hex()));
                }
                Err(error) if is_damage(&error) => damaged.push(entry),
                Err(error) => return Err(error),
            }
        }
        if !damaged.is_empty() {
            self.change(|entries| entries.retain(|entry: &Entry| !damaged.contains(entry)))?;
        }
        let mut pruned = Pruned::default();
        sweep(&self.root.join("blobs/sha256"), &blobs, &mut pruned)?;
        sweep(&self.root.join("layers/sha256"), &layers, &mut pruned)?;
        // Whoever takes a lock holds the store as well, so nobody has one.
        sweep(
            &self.root.join("locks"),
            &BTreeSet::from(["store".to_owned()]),
            &mut Pruned::default(),
        )?;
        sweep_unfinished(&self.root, &mut pruned)?;
        Ok(pruned)
    }
}

/// Whether the documents are at fault, and not the disk.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::File { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => true,
    }
}

/// Removes the files of a directory but those to keep.
fn sweep(directory: &Path, keep: &BTreeSet<String>, pruned: &mut Pruned) -> Result<()> {
    let kept = |name: &OsString| name.to_str().is_some_and(|name| keep.contains(name));
    remove(directory, pruned, |name| !kept(name))
}

/// The root has other things too.
fn sweep_unfinished(root: &Path, pruned: &mut Pruned) -> Result<()> {
    remove(root, pruned, |name| {
        name.to_str()
            .is_some_and(|name| name.starts_with(super::files::UNFINISHED))
    })
}

fn remove(directory: &Path, pruned: &mut Pruned, which: impl Fn(&OsString) -> bool) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(file("read", directory))? {
        let entry = entry.map_err(file("read", directory))?;
        if !which(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        let bytes = entry.metadata().map_err(file("read", &path))?.len();
        fs::remove_file(&path).map_err(file("remove", &path))?;
        pruned.files = pruned.files.saturating_add(1);
        pruned.bytes = pruned.bytes.saturating_add(bytes);
    }
    Ok(())
}
