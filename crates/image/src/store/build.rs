//! Making images: layers that are new, and configurations for them.

use std::{
    io::{Read, Write},
    sync::atomic::AtomicBool,
};

use flate2::{Compression as Level, write::GzEncoder};
use serde_json::{Value, json};
use spec::Reference;

use super::{Hold, Layer, Store, Unpack, files, files::Unfinished, names::Entry};
use crate::{
    Compression, Descriptor, Digest, Error, Manifest, Result, config,
    digest::{Hashed, Hasher},
    error::{file, written},
    manifest::{LAYERS_MAX, OCI_CONFIG},
    registry::Watch,
};

impl Store {
    /// Makes a layer of a tar archive, compresses and unpacks it. It belongs to no image yet: the
    /// hold keeps it until one is made.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::File`], [`Error::Unpack`].
    pub fn add_layer(
        &self,
        _hold: &Hold,
        archive: &mut dyn Read,
        unpack: &dyn Unpack,
    ) -> Result<Layer> {
        let unfinished = Unfinished::new(&self.root.join("blobs").join("sha256"))?;
        let full = |error| written(unfinished.path(), 0)(error);
        let output = Hashed::new(unfinished.file());
        let mut encoder = GzEncoder::new(output, Level::default());
        let mut contents = Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = archive
                .read(&mut buffer)
                .map_err(file("read", "the new layer"))?;
            if count == 0 {
                break;
            }
            let part = buffer.get(..count).unwrap_or_default();
            contents.update(part);
            encoder.write_all(part).map_err(full)?;
        }
        let output = encoder.finish().map_err(full)?;
        let digest = output.digest();
        let layer = Layer {
            blob: Descriptor::new(Compression::Gzip.media_type(), digest, output.len()),
            diff_id: contents.digest(),
        };
        unfinished.finish(&self.blob_path(digest))?;
        let watch = Watch {
            progress: &(),
            stop: &AtomicBool::new(false),
        };
        self.layer(&layer, unpack, None, watch)?;
        Ok(layer)
    }

    /// Makes an image of layers that are here, and names it. `document` is its configuration, as in
    /// the image specification; what it says of layers (`rootfs`) is replaced by what there is.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the configuration is none, [`Error::Missing`] if a layer is not here.
    pub fn commit(
        &self,
        _hold: &Hold,
        mut document: Value,
        layers: &[Layer],
        name: &Reference,
    ) -> Result<Digest> {
        let what = format!("the configuration of {name}");
        if layers.len() > LAYERS_MAX {
            return Err(Error::malformed(
                what,
                format!("it has more than {LAYERS_MAX} layers"),
            ));
        }
        let Some(fields) = document.as_object_mut() else {
            return Err(Error::malformed(what, "it is no object"));
        };
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        fields.insert(
            "rootfs".to_owned(),
            json!({"type": "layers", "diff_ids": diff_ids}),
        );
        let bytes = document.to_string().into_bytes();
        let (config, _) = config::parse(&name.to_string(), &bytes)?;
        let platform = config.platform().ok_or_else(|| {
            Error::malformed(
                what,
                "it does not say which \"os\" and \"architecture\" it is for",
            )
        })?;
        for layer in layers {
            let here = files::exists(&self.blob_path(layer.blob.digest))?
                && files::exists(&self.layer_path(layer.diff_id))?;
            if !here {
                return Err(Error::Missing(layer.diff_id.to_string()));
            }
        }
        let config = self.put_document(OCI_CONFIG, &bytes)?;
        let blobs = layers.iter().map(|layer| layer.blob.clone()).collect();
        let manifest = Manifest::new(config, blobs);
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|error| Error::malformed(name.to_string(), error.to_string()))?;
        let manifest = self.put_document(manifest.media_type(), &bytes)?;
        let digest = manifest.digest;
        self.name(Entry {
            name: name.to_string(),
            platform,
            manifest,
        })?;
        Ok(digest)
    }

    fn put_document(&self, kind: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = Digest::of(bytes);
        self.put(digest, bytes)?;
        Ok(Descriptor::new(
            kind,
            digest,
            u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        ))
    }
}
