//! Writing an image to an archive.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Write},
};

use serde_json::json;

use super::{Layer, Store, layers::compression, stored::Documents};
use crate::{
    Descriptor, Digest, Error, Platform, Result,
    bundle::{FULL_NAME, REF_NAME},
    digest::Hasher,
    error::file,
    manifest::OCI_INDEX,
};

/// What archives others read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI layout: `oci-archive:` of skopeo and podman.
    Oci,
    /// What `docker load` reads.
    Docker,
}

impl Store {
    /// Writes an image as a tar archive. The same image makes the same bytes.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none of this name for this platform; [`Error::File`].
    pub fn save(
        &self,
        name: &str,
        platform: &Platform,
        format: Format,
        output: &mut dyn Write,
    ) -> Result<()> {
        let _hold = self.hold()?;
        let entry = self.known(name, platform)?;
        let documents = self.documents(&entry)?;
        let mut archive = Archive(tar::Builder::new(output));
        // What has no reference has no name for others either.
        let reference = entry.name.parse::<spec::Reference>().ok();
        let name = reference.map(|_| entry.name.as_str());
        match format {
            Format::Oci => self.save_oci(&documents, name, &mut archive)?,
            Format::Docker => self.save_docker(&documents, name, &mut archive)?,
        }
        archive.0.finish().map_err(unwritten)?;
        archive.0.get_mut().flush().map_err(unwritten)
    }

    fn save_oci<'a>(
        &self,
        documents: &Documents,
        name: Option<&str>,
        archive: &mut Archive<'a>,
    ) -> Result<()> {
        let names = name.map(|name| {
            let tag = name
                .parse()
                .ok()
                .and_then(|name: spec::Reference| name.tag().map(str::to_owned));
            let short = tag.map(|tag| (REF_NAME.to_owned(), tag));
            short
                .into_iter()
                .chain([(FULL_NAME.to_owned(), name.to_owned())])
        });
        let resolved = &documents.resolved;
        let top = Descriptor {
            annotations: names.map(|names| names.collect::<BTreeMap<_, _>>()),
            ..resolved.descriptor.clone()
        };
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [top]});
        archive.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.bytes("index.json", index.to_string().as_bytes())?;
        archive.bytes(&member(resolved.descriptor.digest), &resolved.bytes)?;
        let mut blobs = vec![&resolved.manifest.config];
        for layer in &documents.layers {
            // The same layer may be there twice, the same member may not.
            if !blobs.iter().any(|blob| blob.digest == layer.blob.digest) {
                blobs.push(&layer.blob);
            }
        }
        for blob in blobs {
            let path = self.blob_path(blob.digest);
            let opened = File::open(&path).map_err(file("open", &path))?;
            archive.member(&member(blob.digest), blob.size, opened.take(blob.size))?;
        }
        Ok(())
    }

    fn save_docker<'a>(
        &self,
        documents: &Documents,
        name: Option<&str>,
        archive: &mut Archive<'a>,
    ) -> Result<()> {
        let config = documents.resolved.manifest.config.digest;
        let layer_name = |layer: &Layer| format!("{}.tar", layer.diff_id.hex());
        let names: Vec<String> = documents.layers.iter().map(layer_name).collect();
        let mut written: Vec<Digest> = Vec::new();
        for (layer, name) in documents.layers.iter().zip(&names) {
            if !written.contains(&layer.diff_id) {
                // Its head says how long it is, before it comes.
                let size = self.measure(layer)?;
                archive.member(name, size, self.contents(layer)?.take(size))?;
                written.push(layer.diff_id);
            }
        }
        let config_name = format!("{}.json", config.hex());
        archive.bytes(&config_name, &self.document(config)?)?;
        let tags: Vec<&str> = name
            .into_iter()
            .filter(|name| !name.contains('@'))
            .collect();
        let saved = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
        archive.bytes("manifest.json", saved.to_string().as_bytes())
    }

    /// The archive in a layer.
    pub(super) fn contents(&self, layer: &Layer) -> Result<Box<dyn Read + 'static>> {
        let reader = BufReader::with_capacity(128 << 10, self.open_blob(layer)?);
        compression(layer)?
            .reader(reader)
            .map_err(file("read", self.blob_path(layer.blob.digest)))
    }

    /// Bytes of the archive in a layer, which is the one that it should be.
    fn measure(&self, layer: &Layer) -> Result<u64> {
        let mut reader = self.contents(layer)?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        let mut size: u64 = 0;
        loop {
            let count = reader.read(&mut buffer);
            let count = count.map_err(file("unpack", self.blob_path(layer.blob.digest)))?;
            if count == 0 {
                break;
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
            size = size.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        match hasher.digest() {
            found if found == layer.diff_id => Ok(size),
            found => Err(Error::WrongDigest {
                what: format!("what is in layer {}", layer.blob.digest),
                expected: layer.diff_id,
                found,
            }),
        }
    }
}

fn member(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn unwritten(source: io::Error) -> Error {
    file("write", "the archive")(source)
}

/// An archive in the making.
struct Archive<'a>(tar::Builder<&'a mut dyn Write>);

impl Archive<'_> {
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.member(name, size, bytes)
    }

    fn member(&mut self, name: &str, size: u64, contents: impl Read) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        let mut counted = Counted {
            inner: contents,
            left: size,
        };
        self.0
            .append_data(&mut header, name, &mut counted)
            .map_err(unwritten)?;
        match counted.left {
            0 => Ok(()),
            _ => Err(unwritten(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// Notices what is missing: an archive with a hole is none.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}
