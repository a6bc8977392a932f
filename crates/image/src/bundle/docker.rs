//! What `docker save` writes: `manifest.json`, configurations, and layers as tar archives.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Bundle;
use crate::{
    Compression, Descriptor, Digest, Error, Item, Manifest, Result, config, digest,
    error::file,
    manifest::{OCI_CONFIG, OCI_MANIFEST},
    origin::{Origin, Top},
    registry::Watch,
    store::Partial,
    text,
};

/// One image in an archive of docker's. It has no manifest there: one is made for it.
#[derive(Debug)]
pub(crate) struct DockerArchive {
    bundle: Bundle,
    top: Top,
    /// Where the blobs are that the manifest names.
    members: BTreeMap<Digest, String>,
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Lists the images.
pub(super) const MANIFEST: &str = "manifest.json";

/// A name of each image in an archive; of the only one there may be none.
pub(super) fn names(bundle: &Bundle) -> Result<Vec<Option<String>>> {
    let first = |one: Saved| one.repo_tags.and_then(|tags| tags.into_iter().next());
    Ok(saved(bundle)?.into_iter().map(first).collect())
}

fn saved(bundle: &Bundle) -> Result<Vec<Saved>> {
    let place = bundle.path().display().to_string();
    serde_json::from_slice(&bundle.document(MANIFEST)?)
        .map_err(|error| Error::malformed(place, text::shown(&error.to_string())))
}

impl DockerArchive {
    /// The image that is called `name`, or the only one.
    pub(crate) fn new(bundle: Bundle, name: Option<&str>) -> Result<Self> {
        let place = bundle.path().display().to_string();
        let chosen = choose(saved(&bundle)?, &place, name)?;
        let written = bundle.document(&chosen.config)?;
        let (_, diff_ids) = config::parse(&place, &written)?;
        let layers = chosen.layers.unwrap_or_default();
        if layers.len() != diff_ids.len() {
            return Err(Error::malformed(
                place,
                "its configuration names other layers than it has",
            ));
        }
        let size = u64::try_from(written.len()).unwrap_or(u64::MAX);
        let config = Descriptor::new(OCI_CONFIG, Digest::of(&written), size);
        let mut members = BTreeMap::from([(config.digest, chosen.config)]);
        let mut descriptors = Vec::new();
        for (name, diff_id) in layers.into_iter().zip(diff_ids) {
            let descriptor = layer(&bundle, &name, diff_id)?;
            members.insert(descriptor.digest, name);
            descriptors.push(descriptor);
        }
        let bytes = serde_json::to_vec(&Manifest::new(config, descriptors));
        let bytes = bytes.map_err(|error| Error::malformed(place, error.to_string()))?;
        Ok(Self {
            top: Top {
                kind: Some(OCI_MANIFEST.to_owned()),
                digest: Digest::of(&bytes),
                bytes,
            },
            bundle,
            members,
            names: chosen.repo_tags.unwrap_or_default(),
        })
    }

    /// What it is called in there.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }
}

fn choose(saved: Vec<Saved>, place: &str, name: Option<&str>) -> Result<Saved> {
    let tags = |one: &Saved| one.repo_tags.clone().unwrap_or_default();
    let known = text::shown(&saved.iter().flat_map(tags).collect::<Vec<_>>().join(", "));
    let called = |one: &Saved| match name {
        Some(name) => tags(one).iter().any(|tag| same(tag, name)),
        None => true,
    };
    let mut chosen: Vec<Saved> = saved.into_iter().filter(called).collect();
    match (chosen.pop(), chosen.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(Error::malformed(
            place,
            format!("name one of its images, as in docker-archive:FILE:NAME; it has: {known}"),
        )),
    }
}

/// Whether both mean the same image: one may leave out what the other says.
fn same(one: &str, other: &str) -> bool {
    let whole = |text: &str| text.parse::<spec::Reference>().ok();
    one == other || whole(one).is_some_and(|one| Some(one) == whole(other))
}

/// A layer's descriptor. One that is not compressed is known by the digest of its contents, which is
/// checked when it is copied; others have to be read for it.
fn layer(bundle: &Bundle, name: &str, diff_id: Digest) -> Result<Descriptor> {
    let section = bundle.open(name)?;
    let size = section.size();
    let beginning = section.peek().map_err(file("read", bundle.path()))?;
    let compression = Compression::of(&beginning);
    let digest = match compression {
        Compression::None => diff_id,
        _ => digest::of_reader(section).map_err(file("read", bundle.path()))?,
    };
    Ok(Descriptor::new(compression.media_type(), digest, size))
}

impl Origin for DockerArchive {
    fn top(&self, _watch: Watch<'_>) -> Result<Top> {
        Ok(self.top.clone())
    }

    fn document(&self, digest: Digest, _watch: Watch<'_>) -> Result<Top> {
        Err(Error::Missing(digest.to_string()))
    }

    fn fetch(
        &self,
        blob: &Descriptor,
        into: &mut Partial<'_>,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<()> {
        let name = self.members.get(&blob.digest);
        let name = name.ok_or_else(|| Error::Missing(blob.digest.to_string()))?;
        let mut section = self.bundle.open(name)?;
        into.restart()?;
        into.expect(section.size())?;
        into.copy(&mut section, item, watch)?
            .map_err(file("read", self.bundle.path()))
    }
}
