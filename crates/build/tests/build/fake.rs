//! The worker, and a directory to build from.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use build::{
    Base, BoxError, Built, Config, Context, Entry, Error, Fetched, Key, Kind, Layer, Options, Root,
    Run, Step, Worker,
};
use tempfile::TempDir;

/// Keeps everything in memory.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) images: HashMap<String, Base>,
    /// Platforms that were asked for.
    pub(crate) platforms: Vec<String>,
    pub(crate) layers: HashMap<Layer, Vec<u8>>,
    pub(crate) cache: HashMap<Key, Option<Layer>>,
    /// Commands that were run, not those from the cache.
    pub(crate) runs: Vec<Run>,
    /// Layers that were written, not those from the cache.
    pub(crate) stored: usize,
    pub(crate) warnings: Vec<String>,
    pub(crate) begun: Vec<String>,
}

impl Fake {
    /// Adds an image with these files.
    pub(crate) fn image(&mut self, name: &str, config: Config, files: &[(&str, &str)]) {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = header();
            header.set_mode(0o644);
            match content.strip_prefix("-> ") {
                Some(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    archive.append_link(&mut header, path, target).unwrap();
                }
                None => {
                    header.set_size(content.len() as u64);
                    archive
                        .append_data(&mut header, path, content.as_bytes())
                        .unwrap();
                }
            }
        }
        let layer = self.keep(archive.into_inner().unwrap());
        let base = Base {
            config,
            layers: vec![layer],
            history: Vec::new(),
        };
        self.images.insert(name.to_owned(), base);
    }

    fn keep(&mut self, bytes: Vec<u8>) -> Layer {
        let layer = Layer(blake3::hash(&bytes).to_hex().to_string());
        self.layers.insert(layer.clone(), bytes);
        layer
    }

    /// What is in an image.
    pub(crate) fn files(&self, layers: &[Layer]) -> Files {
        let mut files = Files::default();
        for layer in layers {
            files.apply(&self.layers[layer]);
        }
        files
    }

    /// The commands that were run, without their shell.
    pub(crate) fn commands(&self) -> Vec<&str> {
        self.runs
            .iter()
            .map(|run| run.argv.last().unwrap().as_str())
            .collect()
    }
}

impl Worker for Fake {
    fn base(&mut self, reference: &str, platform: &str) -> Result<Base, BoxError> {
        self.platforms.push(platform.to_owned());
        let image = self.images.get(reference).cloned();
        image.ok_or_else(|| format!("no image {reference}").into())
    }

    /// The content of an address is the address.
    fn fetch(&mut self, address: &str, checksum: Option<&str>) -> Result<Fetched, BoxError> {
        if let Some(checksum) = checksum.filter(|checksum| *checksum != "good") {
            return Err(format!("it is not {checksum}").into());
        }
        let mut file = tempfile::tempfile()?;
        file.write_all(address.as_bytes())?;
        let digest = address.to_owned();
        Ok(Fetched { file, digest })
    }

    fn root(&mut self, layers: &[Layer]) -> Result<Box<dyn Root>, BoxError> {
        Ok(Box::new(self.files(layers)))
    }

    /// `put PATH TEXT` writes a file; anything else does nothing, but `fail`.
    fn run(&mut self, _: &[Layer], run: &Run) -> Result<Option<Layer>, BoxError> {
        self.runs.push(run.clone());
        let text = run.argv.last().unwrap();
        if text == "fail" {
            return Err("exit code 7".into());
        }
        let Some((path, text)) = text
            .strip_prefix("put ")
            .and_then(|text| text.split_once(' '))
        else {
            return Ok(None);
        };
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = header();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, path.trim_start_matches('/'), text.as_bytes())?;
        Ok(Some(self.keep(archive.into_inner()?)))
    }

    fn store(
        &mut self,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Layer, BoxError> {
        let mut bytes = Vec::new();
        write(&mut bytes)?;
        self.stored += 1;
        Ok(self.keep(bytes))
    }

    fn cached(&mut self, key: &Key) -> Option<Option<Layer>> {
        self.cache.get(key).cloned()
    }

    fn remember(&mut self, key: &Key, layer: Option<&Layer>) {
        self.cache.insert(*key, layer.cloned());
    }

    fn progress(&mut self, step: Step<'_>) {
        match step {
            Step::Begun {
                stage,
                number,
                total,
                text,
            } => {
                self.begun
                    .push(format!("[{stage} {number}/{total}] {text}"));
            }
            Step::Warning(text) => self.warnings.push(text.to_owned()),
            Step::Cached => self.begun.push("cached".to_owned()),
        }
    }
}

/// A tree in memory.
#[derive(Default, Clone)]
pub(crate) struct Files(pub(crate) BTreeMap<PathBuf, (Entry, Vec<u8>)>);

impl Files {
    fn apply(&mut self, layer: &[u8]) {
        let mut archive = tar::Archive::new(layer);
        for member in archive.entries().unwrap() {
            let mut member = member.unwrap();
            let mut xattrs = Vec::new();
            for extension in member.pax_extensions().unwrap().into_iter().flatten() {
                let extension = extension.unwrap();
                if let Some(name) = extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
                    xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
                }
            }
            let path = member.path().unwrap().into_owned();
            let link = member
                .link_name()
                .unwrap()
                .map(std::borrow::Cow::into_owned);
            let mut content = Vec::new();
            member.read_to_end(&mut content).unwrap();
            let header = member.header();
            let kind = match header.entry_type() {
                tar::EntryType::Directory => Kind::Directory,
                tar::EntryType::Symlink => Kind::Symlink(link.unwrap()),
                tar::EntryType::Link => {
                    let target = self.0[&link.unwrap()].clone();
                    self.0.insert(path, target);
                    continue;
                }
                tar::EntryType::Regular => Kind::File,
                _ => Kind::Other,
            };
            let entry = Entry {
                kind,
                mode: header.mode().unwrap(),
                uid: u32::try_from(header.uid().unwrap()).unwrap(),
                gid: u32::try_from(header.gid().unwrap()).unwrap(),
                size: content.len() as u64,
                mtime: header.mtime().unwrap(),
                xattrs,
            };
            for parent in path.ancestors().skip(1) {
                self.0
                    .entry(parent.to_owned())
                    .or_insert_with(|| (directory(), Vec::new()));
            }
            self.0.insert(path, (entry, content));
        }
    }

    /// A file's text.
    pub(crate) fn text(&self, path: &str) -> &str {
        let (_, content) = self
            .0
            .get(Path::new(path))
            .unwrap_or_else(|| panic!("no {path}"));
        str::from_utf8(content).unwrap()
    }

    pub(crate) fn at(&self, path: &str) -> &Entry {
        &self
            .0
            .get(Path::new(path))
            .unwrap_or_else(|| panic!("no {path}"))
            .0
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(Path::new(path))
    }
}

/// A header of something that belongs to root and is of the year 1970.
fn header() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn directory() -> Entry {
    Entry {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: 0,
        xattrs: Vec::new(),
    }
}

impl Root for Files {
    fn entry(&mut self, path: &Path) -> Result<Option<Entry>, BoxError> {
        assert!(path.is_relative(), "{path:?}");
        Ok(self.0.get(path).map(|(entry, _)| entry.clone()))
    }

    fn names(&mut self, path: &Path) -> Result<Vec<OsString>, BoxError> {
        let inside = |other: &&PathBuf| other.parent() == Some(path);
        let names = self
            .0
            .keys()
            .filter(inside)
            .filter_map(|path| path.file_name());
        Ok(names.map(OsString::from).collect())
    }

    fn open(&mut self, path: &Path) -> Result<Box<dyn Read + '_>, BoxError> {
        let (_, content) = self.0.get(path).ok_or("no such file")?;
        Ok(Box::new(&content[..]))
    }
}

/// A directory to build from.
pub(crate) struct Directory(pub(crate) TempDir);

impl Directory {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let directory = Self(TempDir::new().unwrap());
        for (path, content) in files {
            directory.write(path, content.as_bytes());
        }
        directory
    }

    /// A file, or a symbolic link if it says `-> TARGET`.
    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix(b"-> ") {
            Some(target) => {
                std::os::unix::fs::symlink(str::from_utf8(target).unwrap(), path).unwrap();
            }
            None => {
                fs::write(&path, content).unwrap();
                self.mode(path.to_str().unwrap(), 0o644);
            }
        }
    }

    pub(crate) fn mode(&self, path: &str, mode: u32) {
        let path = self.0.path().join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn build(&self, worker: &mut Fake, options: &Options) -> Result<Built, Error> {
        build::build(&Context::open(self.0.path(), None)?, options, worker)
    }
}

/// For this platform, with values for arguments.
pub(crate) fn options(arguments: &[(&str, &str)]) -> Options {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Options {
        arguments: arguments.iter().map(owned).collect(),
        platform: "linux/arm64".to_owned(),
        build_platform: "linux/amd64".to_owned(),
        ..Options::default()
    }
}

/// Builds a Dockerfile with files beside it, from an empty cache.
pub(crate) fn built(dockerfile: &str, files: &[(&str, &str)]) -> (Built, Fake) {
    let directory = Directory::new(files);
    directory.write("Dockerfile", dockerfile.as_bytes());
    let mut worker = worker();
    let built = directory.build(&mut worker, &options(&[]));
    (
        built.unwrap_or_else(|error| panic!("{}", chain(&error))),
        worker,
    )
}

/// The message of a build that fails.
pub(crate) fn refused(dockerfile: &str, files: &[(&str, &str)]) -> String {
    let directory = Directory::new(files);
    directory.write("Dockerfile", dockerfile.as_bytes());
    chain(&directory.build(&mut worker(), &options(&[])).unwrap_err())
}

/// A worker with the image `base`.
pub(crate) fn worker() -> Fake {
    let mut worker = Fake::default();
    let config = Config {
        env: vec!["PATH=/bin".to_owned(), "FROM_BASE=yes".to_owned()],
        cmd: vec!["base-command".to_owned()],
        ..Config::default()
    };
    let files = [
        (
            "etc/passwd",
            "root:x:0:0::/:/bin/sh\napp:x:10:20::/:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nstaff:x:50:\n"),
        ("usr/lib/libc", "libc"),
        ("lib", "-> usr/lib"),
        ("out", "-> ../../../etc"),
    ];
    worker.image("base", config, &files);
    worker
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
