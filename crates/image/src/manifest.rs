//! The documents that say what an image consists of: those of OCI, and docker's schema 2.

use std::{collections::BTreeMap, io};

use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{Digest, Error, Platform, Result, text};

/// Bytes of a manifest, an index or a configuration at most.
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;

/// Layers of an image at most, as in docker.
pub(crate) const LAYERS_MAX: usize = 127;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a descriptor of layers may be called, without its compression.
const LAYERS: &[&str] = &[
    OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// What a blob is, where to find it, and how to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Of all its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Which machine it is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Whatever else somebody wanted to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            annotations: None,
        }
    }

    /// How this layer is compressed, by its media type; `None` if it is no layer.
    #[must_use]
    pub fn compression(&self) -> Option<Compression> {
        let kinds = [
            ("", Compression::None),
            ("+gzip", Compression::Gzip),
            (".gzip", Compression::Gzip),
            ("+zstd", Compression::Zstd),
            (".zstd", Compression::Zstd),
        ];
        let rest = LAYERS
            .iter()
            .find_map(|layer| self.media_type.strip_prefix(layer));
        let kind = kinds.iter().find(|(ending, _)| Some(*ending) == rest);
        kind.map(|(_, compression)| *compression)
    }
}

/// How the tar archive of a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// By what the bytes begin with.
    #[must_use]
    pub fn of(beginning: &[u8]) -> Self {
        match beginning {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// What a layer that is compressed so is called.
    pub(crate) fn media_type(self) -> String {
        let ending = match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        };
        format!("{OCI_LAYER}{ending}")
    }

    /// What was compressed.
    ///
    /// # Errors
    /// If `reader` fails, or does not begin as it should.
    pub(crate) fn reader<'a>(
        self,
        reader: impl io::BufRead + 'a,
    ) -> io::Result<Box<dyn io::Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(reader),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Self::Zstd => Box::new(Frames {
                inner: reader,
                frame: None,
            }),
        })
    }
}

/// The contents of all frames of zstd, one after the other; skippable ones are skipped.
struct Frames<R> {
    inner: R,
    frame: Option<Box<FrameDecoder>>,
}

impl<R: io::BufRead> io::Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(frame) = &mut self.frame else {
                if self.inner.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin()?;
                continue;
            };
            while frame.can_collect() == 0 && !frame.is_finished() {
                let some = BlockDecodingStrategy::UptoBytes(CHUNK);
                let decoded = frame.decode_blocks(&mut self.inner, some);
                decoded.map_err(io::Error::other)?;
            }
            match frame.read(buffer)? {
                0 if !buffer.is_empty() => self.frame = None,
                count => return Ok(count),
            }
        }
    }
}

/// As much of a frame is unpacked at once.
const CHUNK: usize = 128 << 10;

impl<R: io::BufRead> Frames<R> {
    fn begin(&mut self) -> io::Result<()> {
        let mut frame = Box::new(FrameDecoder::new());
        match frame.init(&mut self.inner) {
            Ok(()) => self.frame = Some(frame),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let mut skipped = io::Read::take(&mut self.inner, u64::from(length));
                io::copy(&mut skipped, &mut io::sink())?;
            }
            Err(other) => return Err(io::Error::other(other)),
        }
        Ok(())
    }
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, base first. Each is a layer by its media type.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// A manifest of OCI.
    pub(crate) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config,
            layers,
        }
    }

    /// What kind of manifest it is.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }
}

/// The images of one name, one for each platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The images, and whatever else was attached to the name.
    pub manifests: Vec<Descriptor>,
}

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// A document before it is decided what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
}

/// Reads a manifest or an index. `media_type` is what was said of it by whoever sent it; what it says
/// of itself counts more. `name` is for errors.
///
/// # Errors
/// [`Error::Schema1`], or [`Error::Malformed`]: also if it could be read as both, or as another kind
/// than it is said to be.
pub fn parse(name: &str, media_type: Option<&str>, bytes: &[u8]) -> Result<Document> {
    let wrong = |reason: String| Error::malformed(format!("the manifest of {name}"), reason);
    let written: Written =
        serde_json::from_slice(bytes).map_err(|error| wrong(text::shown(&error.to_string())))?;
    let said = written
        .media_type
        .as_deref()
        .filter(|said| !said.is_empty());
    let said = said.or(media_type).unwrap_or_default();
    if written.schema_version == Some(1) || written.fs_layers.is_some() {
        return Err(Error::Schema1(name.to_owned()));
    }
    let is_index = [OCI_INDEX, DOCKER_LIST].contains(&said);
    let is_manifest = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&said);
    match (written.manifests, written.config, written.layers) {
        (Some(manifests), None, None) if !is_manifest => Ok(Document::Index(Index { manifests })),
        (None, Some(config), Some(layers)) if !is_index => {
            let media_type = if is_manifest { said } else { OCI_MANIFEST };
            let manifest = Manifest {
                media_type: media_type.to_owned(),
                ..Manifest::new(config, layers)
            };
            check(&manifest).map_err(wrong)?;
            Ok(Document::Manifest(manifest))
        }
        (None, None, None) => Err(wrong("it has neither layers nor manifests".to_owned())),
        _ => Err(wrong(format!(
            "it has parts of both a manifest and an index, or is not what it is said to be, {}",
            text::shown(said)
        ))),
    }
}

/// Whether it is an image: there are other things in registries too.
fn check(manifest: &Manifest) -> Result<(), String> {
    // Some old tools knew no better name.
    let kinds = [OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream"];
    let kind = &manifest.config.media_type;
    if !kinds.contains(&kind.as_str()) {
        return Err(format!("it is not an image but {}", text::shown(kind)));
    }
    if manifest.config.size > DOCUMENT_MAX {
        return Err("its configuration is larger than 4 MiB".to_owned());
    }
    if manifest.layers.len() > LAYERS_MAX {
        return Err(format!("it has more than {LAYERS_MAX} layers"));
    }
    match manifest
        .layers
        .iter()
        .find(|layer| layer.compression().is_none())
    {
        Some(layer) => Err(format!(
            "its layer {} is of a kind that is not known here: {}",
            layer.digest,
            text::shown(&layer.media_type)
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn descriptor(kind: &str) -> String {
        let digest = Digest::of(b"");
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":3,"urls":null}}"#)
    }

    fn manifest(config: &str, layer: &str) -> String {
        let (config, layer) = (descriptor(config), descriptor(layer));
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}],"annotations":null}}"#)
    }

    fn refusal(bytes: &str, kind: Option<&str>) -> String {
        parse("x", kind, bytes.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn manifests_of_oci_and_of_docker_are_read() {
        for (config, layer, compression) in [
            (OCI_CONFIG, format!("{OCI_LAYER}+gzip"), Compression::Gzip),
            (OCI_CONFIG, format!("{OCI_LAYER}+zstd"), Compression::Zstd),
            (OCI_CONFIG, OCI_LAYER.to_owned(), Compression::None),
            (
                DOCKER_CONFIG,
                "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
                Compression::Gzip,
            ),
        ] {
            let text = manifest(config, &layer);
            let Ok(Document::Manifest(read)) = parse("x", None, text.as_bytes()) else {
                panic!("{text}");
            };
            assert_eq!(read.layers[0].compression(), Some(compression));
            let again = serde_json::to_vec(&read).unwrap();
            assert_eq!(parse("x", None, &again).unwrap(), Document::Manifest(read));
        }
    }

    #[test]
    fn what_is_no_image_is_refused_with_what_it_is() {
        let helm = manifest("application/vnd.cncf.helm.config.v1+json", OCI_LAYER);
        assert!(refusal(&helm, None).contains("helm"));
        let encrypted = manifest(OCI_CONFIG, &format!("{OCI_LAYER}+gzip+encrypted"));
        assert!(refusal(&encrypted, None).contains("encrypted"));
        assert!(refusal("{}", None).contains("neither"));
        assert!(refusal("[]", None).contains("manifest of x"));
        assert!(refusal(r#"{"schemaVersion":1,"fsLayers":[]}"#, None).contains("schema 1"));
    }

    #[test]
    fn a_document_that_could_be_read_in_two_ways_is_refused() {
        let both = manifest(OCI_CONFIG, OCI_LAYER).replacen('{', r#"{"manifests":[],"#, 1);
        assert!(refusal(&both, None).contains("both"));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(parse("x", Some(OCI_INDEX), index.as_bytes()).is_ok());
        assert!(refusal(index, Some(OCI_MANIFEST)).contains("not what it is said"));
        let one = manifest(OCI_CONFIG, OCI_LAYER);
        assert!(refusal(&one, Some(DOCKER_LIST)).contains("not what it is said"));
    }

    #[test]
    fn an_image_has_at_most_127_layers() {
        let layers = |count| {
            let layers = vec![descriptor(OCI_LAYER); count].join(",");
            let config = descriptor(OCI_CONFIG);
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#)
        };
        assert!(parse("x", None, layers(127).as_bytes()).is_ok());
        assert!(refusal(&layers(128), None).contains("127"));
    }

    #[test]
    fn frames_of_zstd_follow_each_other_and_some_are_skipped() {
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        let mut bytes = compress_to_vec(&b"one "[..], CompressionLevel::Fastest);
        bytes.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9]);
        bytes.extend(compress_to_vec(
            &[b'x'; 300_000][..],
            CompressionLevel::Fastest,
        ));
        assert_eq!(Compression::of(&bytes), Compression::Zstd);
        let mut read = Vec::new();
        Compression::Zstd
            .reader(&bytes[..])
            .unwrap()
            .read_to_end(&mut read)
            .unwrap();
        assert!(read.starts_with(b"one xxx") && read.len() == 300_004);
        let cut = &bytes[..bytes.len() - 3];
        let end = Compression::Zstd
            .reader(cut)
            .unwrap()
            .read_to_end(&mut Vec::new());
        assert!(end.is_err());
    }

    /// JSON of any shape, with the words of manifests in it.
    fn json() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "schemaVersion",
            "mediaType",
            "config",
            "layers",
            "manifests",
            "digest",
            "size",
            "platform",
            "fsLayers",
            "annotations",
        ]);
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()),
            Just(descriptor(OCI_LAYER)),
            Just(descriptor(OCI_CONFIG)),
            Just(format!("{:?}", OCI_INDEX)),
            "\"[a-z0-9:/]{0,20}\"",
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            let pair =
                (word.clone(), inner.clone()).prop_map(|(key, value)| format!("{key:?}:{value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(|all| format!("[{}]", all.join(","))),
                prop::collection::vec(pair, 0..8).prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_a_document_or_refused(text in json(), kind in prop::option::of("[a-z/.+]{0,20}")) {
            let _ = parse("x", kind.as_deref(), text.as_bytes());
        }

        #[test]
        fn any_bytes_are_a_document_or_refused(bytes: Vec<u8>) {
            let _ = parse("x", None, &bytes);
        }
    }
}
