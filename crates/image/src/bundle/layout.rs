//! The image layout of OCI: `index.json` and `blobs/sha256/`.

use serde::Deserialize;

use super::Bundle;
use crate::{
    Descriptor, Digest, Document, Error, Item, Result,
    error::file,
    manifest::{self, OCI_INDEX},
    origin::{Origin, Top},
    registry::Watch,
    store::Partial,
    text,
};

/// What an image in a layout is called.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What containerd and docker call it, which is a whole reference.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";

/// Says that files are a layout.
pub(super) const MARK: &str = "oci-layout";

/// One image in a layout.
#[derive(Debug)]
pub(crate) struct Layout {
    bundle: Bundle,
    top: Top,
    /// The reference that it has in there, if any.
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    /// The image that is called `name`, or the only one.
    pub(crate) fn new(bundle: Bundle, name: Option<&str>) -> Result<Self> {
        let place = bundle.path().display().to_string();
        let marker: Option<Marker> = serde_json::from_slice(&bundle.document(MARK)?).ok();
        if marker.is_none_or(|marker| !marker.image_layout_version.starts_with("1.")) {
            return Err(Error::malformed(
                place,
                "it is not an image layout of version 1",
            ));
        }
        let bytes = bundle.document("index.json")?;
        let Document::Index(index) = manifest::parse(&place, Some(OCI_INDEX), &bytes)? else {
            return Err(Error::malformed(place, "its index.json is no index"));
        };
        let called = |one: &&Descriptor| match name {
            Some(name) => [REF_NAME, FULL_NAME]
                .iter()
                .any(|key| said(one, key) == Some(name)),
            None => true,
        };
        let chosen: Vec<&Descriptor> = index.manifests.iter().filter(called).collect();
        let top = match chosen.as_slice() {
            [one] => Top {
                kind: Some(one.media_type.clone()).filter(|kind| !kind.is_empty()),
                ..document(&bundle, one.digest)?
            },
            // An index with one image for each platform is as good.
            [_, ..] if names(&chosen).len() <= 1 => Top {
                kind: Some(OCI_INDEX.to_owned()),
                digest: Digest::of(&bytes),
                bytes,
            },
            _ => {
                let all: Vec<&Descriptor> = index.manifests.iter().collect();
                return Err(ambiguous(&place, name, &names(&all)));
            }
        };
        let full = chosen.first().and_then(|one| full_name(one));
        Ok(Self {
            name: full.map(str::to_owned),
            bundle,
            top,
        })
    }

    /// What it is called in there.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

fn said<'a>(one: &'a Descriptor, key: &str) -> Option<&'a str> {
    one.annotations.as_ref()?.get(key).map(String::as_str)
}

/// What it is called elsewhere too. A name without a registry, a path or a tag is often a tag itself.
fn full_name(one: &Descriptor) -> Option<&str> {
    let whole = |name: &&str| name.contains(['/', ':']);
    said(one, FULL_NAME).or_else(|| said(one, REF_NAME).filter(whole))
}

/// The names of images, each once.
fn names<'a>(all: &[&'a Descriptor]) -> Vec<&'a str> {
    let mut names: Vec<&str> = all.iter().filter_map(|one| said(one, REF_NAME)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn ambiguous(place: &str, name: Option<&str>, names: &[&str]) -> Error {
    let names = text::shown(&names.join(", "));
    let names = if names.is_empty() {
        "nothing with a name".to_owned()
    } else {
        names
    };
    let reason = match name {
        Some(name) => format!("it has no {name}, but {names}"),
        None => {
            format!("it does not have just one image, but {names}; name one, as in oci:DIR:NAME")
        }
    };
    Error::malformed(place, reason)
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn document(bundle: &Bundle, digest: Digest) -> Result<Top> {
    let bytes = bundle.document(&blob_name(digest))?;
    let found = Digest::of(&bytes);
    if found != digest {
        let what = format!("a manifest in {}", bundle.path().display());
        return Err(Error::WrongDigest {
            what,
            expected: digest,
            found,
        });
    }
    Ok(Top {
        kind: None,
        bytes,
        digest,
    })
}

impl Origin for Layout {
    fn top(&self, _watch: Watch<'_>) -> Result<Top> {
        Ok(self.top.clone())
    }

    fn document(&self, digest: Digest, _watch: Watch<'_>) -> Result<Top> {
        document(&self.bundle, digest)
    }

    fn fetch(
        &self,
        blob: &Descriptor,
        into: &mut Partial<'_>,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<()> {
        let mut section = self.bundle.open(&blob_name(blob.digest))?;
        into.restart()?;
        into.expect(section.size())?;
        into.copy(&mut section, item, watch)?
            .map_err(file("read", self.bundle.path()))
    }
}
