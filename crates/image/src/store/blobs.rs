//! Blobs: whatever came, as it came.

use std::{
    fs::{self, File},
    io::Read,
};

use super::{Partial, Store, files};
use crate::{
    Descriptor, Digest, Error, Item, Result, Step, error::file, manifest::DOCUMENT_MAX,
    origin::Origin, registry::Watch,
};

impl Store {
    /// Makes sure that a blob is here. Whoever comes second waits for the first and takes what it
    /// has brought. `item` is for those who look on.
    pub(super) fn blob(
        &self,
        blob: &Descriptor,
        origin: Option<&dyn Origin>,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<()> {
        let path = self.blob_path(blob.digest);
        if files::exists(&path)? {
            return Ok(());
        }
        let origin = origin.ok_or_else(|| Error::Missing(blob.digest.to_string()))?;
        let name = format!("blob-{}", blob.digest.hex());
        let waiting = || {
            if let Some(item) = item {
                watch.progress.waiting(item);
            }
        };
        let _turn = self.turn(&name, watch, waiting)?;
        if files::exists(&path)? {
            return Ok(());
        }
        let mut partial = Partial::open(path.with_extension("partial"), blob)?;
        match origin.fetch(blob, &mut partial, item, watch) {
            // It will never be whole: nobody can go on from there.
            Ok(()) | Err(Error::WrongDigest { .. }) => partial.finish(&path),
            Err(error) => Err(error),
        }
    }

    /// Keeps a document, also if there is a damaged one in its place.
    pub(super) fn put(&self, digest: Digest, bytes: &[u8]) -> Result<()> {
        match self.document(digest) {
            Ok(_) => Ok(()),
            Err(_) => files::write(&self.blob_path(digest), bytes),
        }
    }

    /// A document that is fetched if it is not here, or damaged.
    pub(super) fn fetched(
        &self,
        blob: &Descriptor,
        origin: Option<&dyn Origin>,
        watch: Watch<'_>,
    ) -> Result<Vec<u8>> {
        match self.document(blob.digest) {
            Err(Error::WrongDigest { .. }) => self.discard(blob.digest)?,
            Err(_) => {}
            whole => return whole,
        }
        self.blob(blob, origin, None, watch)?;
        self.document(blob.digest)
    }

    /// Removes a blob that is damaged: it will be fetched again.
    pub(super) fn discard(&self, digest: Digest) -> Result<()> {
        let path = self.blob_path(digest);
        fs::remove_file(&path).map_err(file("remove", path))
    }

    /// A document, checked again.
    pub(super) fn document(&self, digest: Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        let opened = File::open(&path).map_err(file("open", &path))?;
        let read = opened
            .take(DOCUMENT_MAX.saturating_add(1))
            .read_to_end(&mut bytes);
        read.map_err(file("read", &path))?;
        let found = Digest::of(&bytes);
        match found == digest {
            true => Ok(bytes),
            false => Err(Error::WrongDigest {
                what: path.display().to_string(),
                expected: digest,
                found,
            }),
        }
    }
}

/// The item of one layer.
pub(super) fn item(step: Step, index: usize, count: usize, blob: &Descriptor) -> Item {
    Item {
        step,
        index,
        count,
        digest: blob.digest,
        total: blob.size,
    }
}
