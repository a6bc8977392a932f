//! Sending an image to a registry.

use std::{fs::File, sync::atomic::AtomicBool};

use spec::Reference;

use super::{Store, blobs::item};
use crate::{
    Descriptor, Digest, Error, Item, Platform, Progress, Result, Step,
    error::file,
    registry::{Remote, Watch},
};

impl Store {
    /// Sends an image to where `target` says. What is there already is not sent again.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none of this name for this platform; errors of the registry;
    /// [`Error::WrongDigest`] if `target` has a digest that is not the image's.
    pub fn push(
        &self,
        name: &str,
        platform: &Platform,
        target: &Reference,
        progress: &dyn Progress,
    ) -> Result<Digest> {
        let _hold = self.hold()?;
        let documents = self.documents(&self.known(name, platform)?)?;
        let resolved = documents.resolved;
        let digest = resolved.descriptor.digest;
        let wanted = target.digest().and_then(|text| text.parse::<Digest>().ok());
        if let Some(expected) = wanted.filter(|wanted| *wanted != digest) {
            return Err(Error::WrongDigest {
                what: name.to_owned(),
                expected,
                found: digest,
            });
        }
        let remote = Remote::new(target, &self.registries);
        let watch = Watch {
            progress,
            stop: &AtomicBool::new(false),
        };
        let layers = &resolved.manifest.layers;
        for (index, blob) in layers.iter().enumerate() {
            let item = item(Step::Upload, index, layers.len(), blob);
            progress.begin(&item);
            self.push_blob(&remote, blob, Some(&item), watch)?;
            progress.end(&item);
        }
        self.push_blob(&remote, &resolved.manifest.config, None, watch)?;
        remote.push_manifest(resolved.manifest.media_type(), &resolved.bytes, watch)?;
        Ok(digest)
    }

    fn push_blob(
        &self,
        remote: &Remote<'_>,
        blob: &Descriptor,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<()> {
        let path = self.blob_path(blob.digest);
        let opened = File::open(&path).map_err(file("open", path))?;
        remote.push_blob(&opened, blob, item, watch)
    }
}
