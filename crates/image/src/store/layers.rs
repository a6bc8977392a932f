//! Layers: what is made of their blobs.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{Blob, Layer, Store, Unpack, files, files::Unfinished};
use crate::{
    Compression, Error, Item, Result, digest,
    error::{Cause, file, is_full, written},
    registry::Watch,
};

impl Store {
    /// Makes sure that a layer is unpacked. Its blob is here.
    pub(super) fn layer(
        &self,
        layer: &Layer,
        unpack: &dyn Unpack,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<()> {
        let path = self.layer_path(layer.diff_id);
        if files::exists(&path)? {
            return Ok(());
        }
        let name = format!("layer-{}", layer.diff_id.hex());
        let waiting = || {
            if let Some(item) = item {
                watch.progress.waiting(item);
            }
        };
        let _turn = self.turn(&name, watch, waiting)?;
        if files::exists(&path)? {
            return Ok(());
        }
        let blob = Blob {
            file: self.open_blob(layer)?,
            compression: compression(layer)?,
            diff_id: &layer.diff_id,
            size: layer.blob.size,
        };
        check_beginning(&blob, layer)?;
        let unfinished = Unfinished::new(path.parent().unwrap_or(&self.root))?;
        let output = unfinished
            .file()
            .try_clone()
            .map_err(file("open", unfinished.path()))?;
        if let Err(error) = unpack.unpack(blob, output) {
            self.check_blob(layer)?;
            return Err(failure(error, layer, unfinished.path()));
        }
        let length = unfinished
            .file()
            .metadata()
            .map_err(file("read", unfinished.path()))?
            .len();
        if length == 0 {
            return Err(failure(
                "nothing was written".into(),
                layer,
                unfinished.path(),
            ));
        }
        unfinished.finish(&path)
    }

    /// Whether the blob of a layer is still what came. One that is damaged is removed.
    fn check_blob(&self, layer: &Layer) -> Result<()> {
        let path = self.blob_path(layer.blob.digest);
        let found = digest::of_reader(self.open_blob(layer)?).map_err(file("read", &path))?;
        if found == layer.blob.digest {
            return Ok(());
        }
        self.discard(layer.blob.digest)?;
        Err(Error::WrongDigest {
            what: path.display().to_string(),
            expected: layer.blob.digest,
            found,
        })
    }

    /// The blob of a layer, for reading.
    pub(super) fn open_blob(&self, layer: &Layer) -> Result<File> {
        let path = self.blob_path(layer.blob.digest);
        File::open(&path).map_err(file("open", path))
    }
}

/// How a layer is compressed, as its media type says.
pub(super) fn compression(layer: &Layer) -> Result<Compression> {
    layer.blob.compression().ok_or_else(|| {
        let what = format!("layer {}", layer.blob.digest);
        Error::malformed(
            what,
            format!("no layer is called {}", layer.blob.media_type),
        )
    })
}

/// Whether it begins as its media type says.
fn check_beginning(blob: &Blob<'_>, layer: &Layer) -> Result<()> {
    let mut beginning = [0; 4];
    let count = blob
        .file
        .read_at(&mut beginning, 0)
        .map_err(file("read", "a blob"))?;
    let found = Compression::of(beginning.get(..count).unwrap_or_default());
    match found == blob.compression {
        true => Ok(()),
        false => Err(Error::malformed(
            format!("layer {}", layer.blob.digest),
            format!(
                "it is said to be {}, but looks like {}",
                layer.blob.media_type,
                found.media_type()
            ),
        )),
    }
}

/// A full disk is not the unpacker's fault.
fn failure(error: Cause, layer: &Layer, path: &Path) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(one) = cause {
        if one.downcast_ref::<io::Error>().is_some_and(is_full) {
            return written(path, layer.blob.size)(io::ErrorKind::StorageFull.into());
        }
        cause = one.source();
    }
    Error::Unpack {
        layer: layer.diff_id,
        source: error,
    }
}
