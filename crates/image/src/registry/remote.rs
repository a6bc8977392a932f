//! An image in a registry, or in one of its mirrors.

use std::{fs::File, io::Read, time::Duration};

use spec::Reference;
use ureq::{
    Body,
    http::{HeaderMap, Method, Response, header},
};

use super::{
    Patience, Registries, Watch,
    retry::{Failure, retrying},
    session::{About, Call, Content, Session, form, join},
};
use crate::{
    Descriptor, Digest, Error, Item, Result,
    manifest::{DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_MAX, OCI_INDEX, OCI_MANIFEST},
    origin::{Origin, Top},
    store::Partial,
};

/// An image by its name.
pub(crate) struct Remote<'a> {
    reference: &'a Reference,
    places: Vec<Spot<'a>>,
    patience: Patience,
}

/// The image in one registry.
struct Spot<'a> {
    session: Session<'a>,
    repository: String,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(reference: &'a Reference, registries: &'a Registries) -> Self {
        let places = registries.places(reference).into_iter().map(|place| Spot {
            session: Session::new(&place, registries.credentials(), registries.patience),
            repository: place.repository,
        });
        Self {
            reference,
            places: places.collect(),
            patience: registries.patience,
        }
    }

    /// Does it with the first registry that can. The last one's error is the one that counts.
    fn first<T>(&self, watch: Watch<'_>, mut act: impl FnMut(&Spot<'a>) -> Result<T>) -> Result<T> {
        let mut places = self.places.iter().peekable();
        while let Some(spot) = places.next() {
            match act(spot) {
                Err(error) if places.peek().is_some() && elsewhere(&error) => {
                    watch.progress.retry(&error.to_string(), Duration::ZERO);
                }
                end => return end,
            }
        }
        Err(Error::Missing(self.reference.to_string()))
    }

    /// The registry itself.
    fn home(&self) -> Result<&Spot<'a>> {
        self.places
            .last()
            .ok_or_else(|| Error::Missing(self.reference.to_string()))
    }

    /// Sends a blob, if it is not there yet.
    pub(crate) fn push_blob(
        &self,
        file: &File,
        blob: &Descriptor,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<()> {
        let spot = self.home()?;
        retrying(&self.patience, watch, || {
            spot.push_blob(file, blob, item, watch)
        })
    }

    /// Sends a manifest, under the tag or the digest of the name.
    pub(crate) fn push_manifest(&self, kind: &str, bytes: &[u8], watch: Watch<'_>) -> Result<()> {
        let spot = self.home()?;
        let digest = Digest::of(bytes).to_string();
        let name = self.reference.tag().unwrap_or(&digest);
        let target = format!("/v2/{}/manifests/{name}", spot.repository);
        let sent = retrying(&self.patience, watch, || {
            let headers = [("content-type", kind)];
            spot.write(Method::PUT, &target, &headers, Content::Bytes(bytes))
        });
        sent.map(|_| ())
    }
}

/// Whether another registry may do better: not if it is this host's fault, or nobody wants it.
fn elsewhere(error: &Error) -> bool {
    !matches!(
        error,
        Error::File { .. } | Error::Full { .. } | Error::Stopped
    )
}

impl Origin for Remote<'_> {
    fn top(&self, watch: Watch<'_>) -> Result<Top> {
        match self.reference.digest() {
            Some(digest) => {
                let known = digest.parse().map_err(|reason: String| {
                    Error::malformed(self.reference.to_string(), reason)
                })?;
                self.document(known, watch)
            }
            None => {
                let tag = self.reference.tag().unwrap_or("latest");
                self.first(watch, |spot| {
                    retrying(&self.patience, watch, || spot.manifest(tag, None))
                })
            }
        }
    }

    fn document(&self, digest: Digest, watch: Watch<'_>) -> Result<Top> {
        let name = digest.to_string();
        self.first(watch, |spot| {
            retrying(&self.patience, watch, || spot.manifest(&name, Some(digest)))
        })
    }

    fn fetch(
        &self,
        blob: &Descriptor,
        into: &mut Partial<'_>,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<()> {
        self.first(watch, |spot| {
            // What was left by somebody else, or came from elsewhere, may be wrong.
            let begun = into.len() > 0;
            let mut whole = || {
                retrying(&self.patience, watch, || {
                    spot.fetch(blob, into, item, watch)
                })?;
                into.check()
            };
            match whole() {
                Err(Error::WrongDigest { .. }) if begun => {
                    into.restart()?;
                    retrying(&self.patience, watch, || {
                        spot.fetch(blob, into, item, watch)
                    })?;
                    into.check()
                }
                end => end,
            }
        })
    }
}

impl Spot<'_> {
    fn scope(&self, actions: &str) -> String {
        format!("repository:{}:{actions}", self.repository)
    }

    fn about<'b>(&'b self, what: &'b str, action: &'static str) -> About<'b> {
        About {
            repository: &self.repository,
            what,
            action,
        }
    }

    fn get(
        &self,
        target: &str,
        what: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Response<Body>, Failure> {
        self.session.call(&Call {
            method: Method::GET,
            target,
            headers,
            body: Content::None,
            scope: &self.scope("pull"),
            about: self.about(what, "reading"),
        })
    }

    /// A manifest by its tag or its digest. What comes is what was asked for.
    fn manifest(&self, name: &str, expected: Option<Digest>) -> Result<Top, Failure> {
        let what = match expected {
            Some(_) => format!("{}@{name}", self.repository),
            None => format!("{}:{name}", self.repository),
        };
        let kinds = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let target = format!("/v2/{}/manifests/{name}", self.repository);
        let mut response = self.get(&target, &what, &[("accept", &kinds)])?;
        let kind = text_of(response.headers(), header::CONTENT_TYPE);
        let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned());
        let said = text_of(response.headers(), CONTENT_DIGEST);
        let mut bytes = Vec::new();
        let mut reader = response
            .body_mut()
            .as_reader()
            .take(DOCUMENT_MAX.saturating_add(1));
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| self.session.broken(error))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > DOCUMENT_MAX {
            return Err(Error::malformed(what, "it is larger than 4 MiB").into());
        }
        let found = Digest::of(&bytes);
        let expected = expected.or_else(|| said.and_then(|said| said.parse().ok()));
        match expected.filter(|expected| *expected != found) {
            Some(expected) => Err(Error::WrongDigest {
                what,
                expected,
                found,
            }
            .into()),
            None => Ok(Top {
                kind,
                bytes,
                digest: found,
            }),
        }
    }

    /// One attempt to get what is missing of a blob.
    fn fetch(
        &self,
        blob: &Descriptor,
        into: &mut Partial<'_>,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<(), Failure> {
        let begin = into.len();
        if begin == blob.size {
            return Ok(());
        }
        let what = format!("{}@{}", self.repository, blob.digest);
        let range = format!("bytes={begin}-");
        let range = [("range", range.as_str())];
        let headers = if begin > 0 { &range[..] } else { &[] };
        let target = format!("/v2/{}/blobs/{}", self.repository, blob.digest);
        let mut response = self.get(&target, &what, headers)?;
        let status = response.status().as_u16();
        let continues = status == 206 && range_begin(response.headers()) == Some(begin);
        if begin > 0 && !continues {
            into.restart()?;
        }
        if status == 416 || (status == 206 && !continues) {
            return Err(Failure::again(
                self.session
                    .malformed("it does not send the range that it was asked for"),
            ));
        }
        if let Some(length) = response.body().content_length().filter(|_| status == 200) {
            into.expect(length)?;
        }
        let before = into.furthest();
        let mut reader = response.body_mut().as_reader();
        let copied = into.copy(&mut reader, item, watch)?;
        let moved = into.furthest().saturating_sub(before) >= MOVED;
        match copied {
            Ok(()) if into.len() == blob.size => Ok(()),
            Ok(()) => Err(Failure::Again {
                error: Box::new(Error::WrongSize {
                    what,
                    expected: blob.size,
                    found: into.len().to_string(),
                }),
                after: None,
                moved,
            }),
            Err(error) => match self.session.broken(error) {
                Failure::Again { error, after, .. } => Err(Failure::Again {
                    error,
                    after,
                    moved,
                }),
                last => Err(last),
            },
        }
    }

    fn write(
        &self,
        method: Method,
        target: &str,
        headers: &[(&'static str, &str)],
        body: Content<'_>,
    ) -> Result<Response<Body>, Failure> {
        self.session.call(&Call {
            method,
            target,
            headers,
            body,
            scope: &self.scope("pull,push"),
            about: self.about(&self.repository, "writing"),
        })
    }

    /// One attempt to send a blob.
    fn push_blob(
        &self,
        file: &File,
        blob: &Descriptor,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<(), Failure> {
        let there = format!("/v2/{}/blobs/{}", self.repository, blob.digest);
        match self.write(Method::HEAD, &there, &[], Content::None) {
            Ok(_) => return Ok(()),
            Err(Failure::Final(Error::NotFound { .. })) => {}
            Err(other) => return Err(other),
        }
        let uploads = format!("/v2/{}/blobs/uploads/", self.repository);
        let begun = self.write(Method::POST, &uploads, &[], Content::None)?;
        let location = text_of(begun.headers(), header::LOCATION).ok_or_else(|| {
            self.session
                .malformed("it does not say where to send the blob")
        })?;
        let location = join(&self.session.address(&uploads)?, &location);
        let mark = if location.contains('?') { '&' } else { '?' };
        let digest = form(&[("digest", &blob.digest.to_string())]);
        let target = format!("{location}{mark}{digest}");
        let headers = [("content-type", "application/octet-stream")];
        let advance = |done| {
            if let Some(item) = item {
                watch.progress.advance(item, done);
            }
        };
        let body = Content::File(file, blob.size, &advance);
        self.write(Method::PUT, &target, &headers, body).map(|_| ())
    }
}

/// What the registry says that the digest is.
const CONTENT_DIGEST: header::HeaderName = header::HeaderName::from_static("docker-content-digest");

/// An attempt that brought so many bytes got on.
const MOVED: u64 = 64 << 10;

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Where the part begins that the registry sends: `bytes 5-9/10`.
fn range_begin(headers: &HeaderMap) -> Option<u64> {
    let range = text_of(headers, header::CONTENT_RANGE)?;
    let (begin, _) = range.trim().strip_prefix("bytes")?.trim().split_once('-')?;
    begin.parse().ok()
}
