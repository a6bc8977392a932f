//! Blobs: whatever came, as it came.

use std::{fs::File, io::Read};

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
        let begun = path.with_extension("partial");
        let left = files::exists(&begun)?;
        let fetch = || {
            let mut partial = Partial::open(begun.clone(), blob)?;
            origin.fetch(blob, &mut partial, item, watch)?;
            partial.finish(&path)
        };
        match fetch() {
            // What was left from before a crash may not be what was written. It is gone now.
            Err(Error::WrongDigest { .. }) if left => fetch(),
            end => end,
        }
    }

    /// Keeps a document.
    pub(super) fn put(&self, digest: Digest, bytes: &[u8]) -> Result<()> {
        let path = self.blob_path(digest);
        match files::exists(&path)? {
            true => Ok(()),
            false => files::write(&path, bytes),
        }
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
