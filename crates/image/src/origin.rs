//! Where an image comes from.

use crate::{
    Descriptor, Digest, Document, Error, Item, Manifest, Platform, Result, manifest,
    registry::Watch, store::Partial,
};

/// A document as it came.
#[derive(Debug, Clone)]
pub(crate) struct Top {
    /// What it was said to be.
    pub(crate) kind: Option<String>,
    pub(crate) bytes: Vec<u8>,
    /// Of the bytes.
    pub(crate) digest: Digest,
}

/// A registry, a layout or an archive.
pub(crate) trait Origin: Sync {
    /// What the name leads to: a manifest or an index.
    fn top(&self, watch: Watch<'_>) -> Result<Top>;

    /// A manifest or an index by its digest. Whoever asks checks the digest.
    fn document(&self, digest: Digest, watch: Watch<'_>) -> Result<Top>;

    /// Gets what is missing of a blob.
    fn fetch(
        &self,
        blob: &Descriptor,
        into: &mut Partial<'_>,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<()>;
}

/// The manifest of an image for one platform.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
    pub(crate) manifest: Manifest,
}

/// An index may contain indexes, to this depth.
const DEPTH: usize = 3;

/// Finds the manifest for a platform. `name` is for errors.
pub(crate) fn resolve(
    origin: &dyn Origin,
    name: &str,
    platform: &Platform,
    watch: Watch<'_>,
) -> Result<Resolved> {
    let mut top = origin.top(watch)?;
    for _ in 0..DEPTH {
        let index = match manifest::parse(name, top.kind.as_deref(), &top.bytes)? {
            Document::Manifest(manifest) => {
                let size = u64::try_from(top.bytes.len()).unwrap_or(u64::MAX);
                return Ok(Resolved {
                    descriptor: Descriptor::new(manifest.media_type(), top.digest, size),
                    bytes: top.bytes,
                    manifest,
                });
            }
            Document::Index(index) => index,
        };
        let Some(chosen) = platform.choose(&index.manifests) else {
            return Err(Error::NoPlatform {
                name: name.to_owned(),
                wanted: platform.clone(),
                offered: offered(&index.manifests),
            });
        };
        top = origin.document(chosen.digest, watch)?;
        check(name, chosen, &mut top)?;
    }
    Err(Error::malformed(
        name,
        "its indexes lead to indexes, and these again",
    ))
}

/// Whether it is what the index says.
fn check(name: &str, chosen: &Descriptor, top: &mut Top) -> Result<()> {
    let what = || format!("the manifest of {name}");
    let size = u64::try_from(top.bytes.len()).unwrap_or(u64::MAX);
    if size != chosen.size {
        return Err(Error::WrongSize {
            what: what(),
            expected: chosen.size,
            found: size.to_string(),
        });
    }
    top.digest = Digest::of(&top.bytes);
    if top.digest != chosen.digest {
        return Err(Error::WrongDigest {
            what: what(),
            expected: chosen.digest,
            found: top.digest,
        });
    }
    if !chosen.media_type.is_empty() {
        top.kind = Some(chosen.media_type.clone());
    }
    Ok(())
}

/// The platforms in an index, in words.
fn offered(manifests: &[Descriptor]) -> String {
    let known = |platform: &&Platform| platform.os != "unknown";
    let platforms = manifests
        .iter()
        .filter_map(|one| one.platform.as_ref())
        .filter(known);
    let mut names: Vec<String> = platforms
        .map(|one| crate::text::shown(&one.to_string()))
        .collect();
    names.sort();
    names.dedup();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::atomic::AtomicBool};

    use super::*;

    /// The first document is what the name leads to.
    struct Documents(Vec<String>, BTreeMap<Digest, String>);

    impl Documents {
        fn new(all: &[&str]) -> Self {
            let known = all
                .iter()
                .map(|one| (Digest::of(one.as_bytes()), (*one).to_owned()));
            Self(vec![all[0].to_owned()], known.collect())
        }
    }

    fn top(text: &str) -> Top {
        let bytes = text.as_bytes().to_vec();
        Top {
            kind: None,
            digest: Digest::of(&bytes),
            bytes,
        }
    }

    impl Origin for Documents {
        fn top(&self, _: Watch<'_>) -> Result<Top> {
            Ok(top(&self.0[0]))
        }

        fn document(&self, digest: Digest, _: Watch<'_>) -> Result<Top> {
            self.1
                .get(&digest)
                .map(|text| top(text))
                .ok_or(Error::Missing(digest.to_string()))
        }

        fn fetch(
            &self,
            _: &Descriptor,
            _: &mut Partial<'_>,
            _: Option<&Item>,
            _: Watch<'_>,
        ) -> Result<()> {
            unreachable!()
        }
    }

    fn image(mark: u32) -> String {
        let config = Descriptor::new(manifest::OCI_CONFIG, Digest::of(b"{}"), mark.into());
        serde_json::to_string(&Manifest::new(config, Vec::new())).unwrap()
    }

    fn index(entries: &[(&str, &str)]) -> String {
        let entries: Vec<_> = entries
            .iter()
            .map(|(document, platform)| Descriptor {
                platform: Some(platform.parse().unwrap()),
                ..Descriptor::new("", Digest::of(document.as_bytes()), document.len() as u64)
            })
            .collect();
        format!(
            r#"{{"schemaVersion":2,"manifests":{}}}"#,
            serde_json::to_string(&entries).unwrap()
        )
    }

    fn resolved(documents: &[&str], platform: &str) -> Result<u64> {
        let watch = Watch {
            progress: &(),
            stop: &AtomicBool::new(false),
        };
        let platform = platform.parse().unwrap();
        let end = resolve(&Documents::new(documents), "x", &platform, watch)?;
        Ok(end.manifest.config.size)
    }

    #[test]
    fn an_index_leads_to_the_image_for_the_platform() {
        let (one, two) = (image(1), image(2));
        let index = index(&[(&one, "linux/amd64"), (&two, "linux/arm64")]);
        let all = [&index[..], &one, &two];
        assert_eq!(resolved(&all, "linux/arm64").unwrap(), 2);
        assert_eq!(resolved(&[&one], "linux/s390x").unwrap(), 1);
        let message = resolved(&all, "linux/s390x").unwrap_err().to_string();
        assert!(message.contains("linux/amd64, linux/arm64"), "{message}");
    }

    #[test]
    fn indexes_in_indexes_are_followed_but_not_for_ever() {
        let mut chain = vec![image(1)];
        for _ in 0..DEPTH {
            let next = index(&[(chain.last().unwrap(), "linux/amd64")]);
            chain.push(next);
        }
        let from = |depth: usize| {
            let all: Vec<&str> = chain[..=depth].iter().rev().map(String::as_str).collect();
            resolved(&all, "linux/amd64")
        };
        assert_eq!(from(DEPTH - 1).unwrap(), 1);
        assert!(from(DEPTH).unwrap_err().to_string().contains("indexes"));
    }
}
