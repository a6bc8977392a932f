//! A registry that does as it is told, and images for it.

use std::{
    collections::BTreeMap,
    error::Error,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use image::{
    Blob, Digest, Error as ImageError, Item, Patience, Policy, Progress, Pull, Registries, Store,
    Stored, Unpack,
};
use rustls::pki_types::PrivatePkcs8KeyDer;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/") && self.method == "GET"
    }
}

/// How the body of an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    /// The connection is closed after so many bytes.
    Cut(usize),
    /// After so many bytes nothing more comes.
    Stall(usize),
    /// In chunks without a length, and the body again and again.
    Endless,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
    /// A length that is not the body's.
    pub(crate) length: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            end: End::Whole,
            length: None,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

type Hook = dyn Fn(&Request, &Contents) -> Option<Reply> + Send + Sync;

/// What a registry has: by path in it, and what was uploaded.
#[derive(Default)]
pub(crate) struct Contents {
    manifests: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(crate) log: Mutex<Vec<Request>>,
}

impl Contents {
    /// What a registry that works would answer.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let Some(path) = request.path.strip_prefix("/v2/") else {
            return Reply::new(404, "");
        };
        if let Some((_, name)) = path.split_once("/manifests/") {
            return self.manifest(request, name);
        }
        if path.ends_with("/blobs/uploads/") {
            return Reply::new(202, "").header("Location", "/upload?state=x");
        }
        match path.split_once("/blobs/") {
            Some((_, digest)) => self.blob(request, digest),
            None => Reply::new(200, "{}"),
        }
    }

    fn manifest(&self, request: &Request, name: &str) -> Reply {
        let mut manifests = self.manifests.lock().unwrap();
        if request.method == "PUT" {
            let kind = request.header("content-type").unwrap().to_owned();
            manifests.insert(
                Digest::of(&request.body).to_string(),
                (kind.clone(), request.body.clone()),
            );
            manifests.insert(name.to_owned(), (kind, request.body.clone()));
            return Reply::new(201, "");
        }
        match manifests.get(name) {
            Some((kind, bytes)) => {
                Reply::new(200, bytes.clone()).header("Content-Type", kind.clone())
            }
            None => Reply::new(
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            ),
        }
    }

    fn blob(&self, request: &Request, digest: &str) -> Reply {
        let blobs = self.blobs.lock().unwrap();
        let Some(bytes) = blobs.get(digest) else {
            return Reply::new(
                404,
                r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#,
            );
        };
        let begin = request.header("range").map(|range| {
            range
                .strip_prefix("bytes=")
                .unwrap()
                .strip_suffix('-')
                .unwrap()
                .parse::<usize>()
                .unwrap()
        });
        match begin {
            None => Reply::new(200, bytes.clone()),
            Some(begin) => Reply::new(206, &bytes[begin..]).header(
                "Content-Range",
                format!("bytes {begin}-{}/{}", bytes.len() - 1, bytes.len()),
            ),
        }
    }

    fn upload(&self, request: &Request) -> Reply {
        let digest = Digest::of(&request.body).to_string();
        let said = request
            .query
            .rsplit_once("digest=")
            .unwrap()
            .1
            .replace("%3A", ":");
        assert_eq!(digest, said);
        self.blobs
            .lock()
            .unwrap()
            .insert(digest, request.body.clone());
        Reply::new(201, "")
    }
}

/// A registry on a port of this host.
pub(crate) struct Fake {
    pub(crate) host: String,
    pub(crate) contents: Arc<Contents>,
    stop: Arc<AtomicBool>,
}

impl Fake {
    /// One that works.
    pub(crate) fn new() -> Self {
        Self::with(|_, _| None)
    }

    /// One that does what `hook` says, if it says anything.
    pub(crate) fn with(
        hook: impl Fn(&Request, &Contents) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::start(Arc::new(hook), None)
    }

    /// One that works, with TLS and a certificate that nobody vouches for.
    pub(crate) fn encrypted() -> Self {
        let certificate = include_bytes!("localhost/certificate.der")
            .as_slice()
            .into();
        let key = PrivatePkcs8KeyDer::from(include_bytes!("localhost/key.der").as_slice());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
        Self::start(Arc::new(|_, _| None), Some(Arc::new(config)))
    }

    fn start(hook: Arc<Hook>, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            host: listener.local_addr().unwrap().to_string(),
            contents: Arc::default(),
            stop: Arc::default(),
        };
        let (contents, stop) = (fake.contents.clone(), fake.stop.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (contents, stop, hook) = (contents.clone(), stop.clone(), hook.clone());
                let stream = stream.unwrap();
                let tls = tls
                    .clone()
                    .map(|tls| rustls::ServerConnection::new(tls).unwrap());
                // What the other side does not want to hear is no fault of ours.
                thread::spawn(move || match tls {
                    Some(tls) => {
                        let stream = rustls::StreamOwned::new(tls, stream);
                        serve(stream, &contents, &*hook, &stop).ok()
                    }
                    None => serve(stream, &contents, &*hook, &stop).ok(),
                });
            }
        });
        fake
    }

    /// The name of an image in it.
    pub(crate) fn name(&self, rest: &str) -> spec::Image {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    pub(crate) fn add(&self, name: &str, image: &Sample) {
        let mut blobs = self.contents.blobs.lock().unwrap();
        for bytes in image.blobs() {
            blobs.insert(Digest::of(bytes).to_string(), bytes.clone());
        }
        drop(blobs);
        self.add_manifest(name, image.kind, image.manifest.as_bytes());
    }

    pub(crate) fn add_manifest(&self, name: &str, kind: &str, bytes: &[u8]) {
        let mut manifests = self.contents.manifests.lock().unwrap();
        for name in [name, &Digest::of(bytes).to_string()] {
            manifests.insert(name.to_owned(), (kind.to_owned(), bytes.to_vec()));
        }
    }

    /// The requests since the last time.
    pub(crate) fn log(&self) -> Vec<Request> {
        std::mem::take(&mut *self.contents.log.lock().unwrap())
    }

    /// How many requests for blobs there were.
    pub(crate) fn blobs_asked(&self) -> usize {
        self.log()
            .iter()
            .filter(|request| request.is_blob())
            .count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.host);
    }
}

fn serve(
    stream: impl Read + Write,
    contents: &Contents,
    hook: &Hook,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    // TLS begins with a record of type 22, which is nothing to us.
    while reader.fill_buf()?.first().is_some_and(|first| *first != 22) {
        let request = read(&mut reader)?;
        let reply = hook(&request, contents).unwrap_or_else(|| match request.path.as_str() {
            "/upload" => contents.upload(&request),
            _ => contents.answer(&request),
        });
        let head = request.method == "HEAD";
        contents.log.lock().unwrap().push(request);
        write(reader.get_mut(), reply, head, stop)?;
    }
    Ok(())
}

fn read(reader: &mut impl BufRead) -> io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request {
        method: method.into(),
        path: path.into(),
        query: query.into(),
        headers,
        body,
    })
}

/// With an error, the connection is closed.
fn write(stream: &mut impl Write, reply: Reply, head: bool, stop: &AtomicBool) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {} x\r\n", reply.status);
    for (name, value) in &reply.headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &match reply.end {
        End::Endless => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
        _ => format!(
            "Content-Length: {}\r\n\r\n",
            reply.length.unwrap_or(reply.body.len())
        ),
    };
    stream.write_all(text.as_bytes())?;
    if head {
        return stream.flush();
    }
    match reply.end {
        End::Whole => {
            stream.write_all(&reply.body)?;
            return stream.flush();
        }
        End::Cut(count) => stream.write_all(&reply.body[..count])?,
        End::Stall(count) => {
            stream.write_all(&reply.body[..count])?;
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        End::Endless => loop {
            stream.write_all(format!("{:x}\r\n", reply.body.len()).as_bytes())?;
            stream.write_all(&reply.body)?;
            stream.write_all(b"\r\n")?;
        },
    }
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// An image.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) kind: &'static str,
    pub(crate) manifest: String,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Sample {
    /// Of OCI, with these layers, which are not compressed.
    pub(crate) fn new(layers: &[&[u8]]) -> Self {
        Self::for_cpu(image::Platform::of_host().architecture.as_str(), layers)
    }

    pub(crate) fn for_cpu(cpu: &str, layers: &[&[u8]]) -> Self {
        Self::made(OCI_MANIFEST, OCI_CONFIG, cpu, layers, OCI_TAR, |layer| {
            layer.to_vec()
        })
    }

    /// Of docker, with layers that are compressed.
    pub(crate) fn docker(layers: &[&[u8]]) -> Self {
        let cpu = image::Platform::of_host().architecture;
        Self::made(
            DOCKER_MANIFEST,
            DOCKER_CONFIG,
            &cpu,
            layers,
            DOCKER_GZIP,
            gzip,
        )
    }

    pub(crate) fn gzip(layers: &[&[u8]]) -> Self {
        let (cpu, kind) = (
            image::Platform::of_host().architecture,
            format!("{OCI_TAR}+gzip"),
        );
        Self::made(OCI_MANIFEST, OCI_CONFIG, &cpu, layers, &kind, gzip)
    }

    fn made(
        kind: &'static str,
        config_kind: &str,
        cpu: &str,
        layers: &[&[u8]],
        layer_kind: &str,
        compress: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = serde_json::json!({
            "os": "linux", "architecture": cpu,
            "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes();
        let layers: Vec<Vec<u8>> = layers.iter().map(|layer| compress(layer)).collect();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| descriptor(layer_kind, layer))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": descriptor(config_kind, &config), "layers": descriptors,
        });
        Self {
            kind,
            manifest: manifest.to_string(),
            config,
            layers,
        }
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.layers.iter().chain([&self.config])
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    pub(crate) fn layer(&self, index: usize) -> Digest {
        Digest::of(&self.layers[index])
    }
}

pub(crate) fn descriptor(kind: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()})
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress and are not the same everywhere.
pub(crate) fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Copies a layer, and counts.
#[derive(Default)]
pub(crate) struct Copy(pub(crate) AtomicUsize);

impl Unpack for Copy {
    fn unpack(
        &self,
        mut layer: Blob<'_>,
        mut output: File,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(io::copy(&mut layer.file, &mut output)?, layer.size);
        Ok(())
    }
}

/// Remembers what went wrong on the way.
#[derive(Default)]
pub(crate) struct Retries(pub(crate) Mutex<Vec<(String, Duration)>>);

impl Progress for Retries {
    fn retry(&self, reason: &str, wait: Duration) {
        self.0.lock().unwrap().push((reason.to_owned(), wait));
    }

    fn advance(&self, item: &Item, done: u64) {
        assert!(done <= item.total, "{item:?}: {done}");
    }
}

/// Waits that no test has to sit through.
pub(crate) fn hasty() -> Registries {
    let mut registries = Registries::default();
    registries.patience = Patience {
        stall: Duration::from_millis(300),
        pause: Duration::from_millis(1),
        pause_max: Duration::from_millis(5),
        attempts: 3,
    };
    registries
}

pub(crate) fn store(root: &Path) -> Store {
    Store::open(root).unwrap().with_registries(hasty())
}

pub(crate) fn get(store: &Store, source: &spec::Image) -> Result<Stored, ImageError> {
    store.get(source, &Pull::default(), &Copy::default(), &())
}

pub(crate) fn pull(policy: Policy) -> Pull {
    Pull {
        policy,
        ..Pull::default()
    }
}

/// What getting an image from this registry fails with, into a store of its own.
pub(crate) fn refusal(fake: &Fake, name: &str) -> ImageError {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let error = get(&store, &fake.name(name)).unwrap_err();
    assert!(store.list().unwrap().is_empty());
    assert_eq!(
        files(&root.path().join("layers/sha256")),
        Vec::<String>::new()
    );
    error
}

/// The names of the files in a directory.
pub(crate) fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A counter that says how many there were before.
pub(crate) fn counter() -> impl Fn() -> usize + Send + Sync {
    let count = AtomicUsize::new(0);
    move || count.fetch_add(1, Ordering::Relaxed)
}
