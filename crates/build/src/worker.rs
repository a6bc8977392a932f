//! What a build asks of others: images, machines that run commands, and a store of layers.

use std::{
    fs::File,
    io::{self, Seek as _, Write},
};

use crate::{
    cache::Key,
    config::{Config, History},
    error::BoxError,
    mounts::Mount,
    root::Root,
};

/// A layer in the worker's store, by the digest of its contents: equal layers have equal names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layer(pub String);

/// The image of a `FROM`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// How it is run.
    pub config: Config,
    /// What it is made of, the lowest first.
    pub layers: Vec<Layer>,
    /// How it was made.
    pub history: Vec<History>,
}

/// A command of a `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The environment, each `NAME=VALUE`; without a `PATH` if nobody has set one.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, names or numbers; empty for root.
    pub user: String,
    /// The working directory, absolute; made if it is not there.
    pub cwd: String,
    /// What it sees beside its root; none of it belongs into the layer.
    pub mounts: Vec<Mount>,
    /// What it reaches.
    pub network: Network,
    /// The file that it runs, if its text is a here-document with an interpreter of its own.
    pub script: Option<Script>,
    /// The machine that it is for, as in `linux/arm64`.
    pub platform: String,
}

/// A file for a command, which is executable and belongs not into the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Where it has to be.
    pub path: String,
    /// What is in it.
    pub content: String,
}

/// What a command reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// What machines reach by default.
    Default,
    /// Nothing.
    None,
}

/// What a build is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// It begins with an instruction.
    Begun {
        /// The stage's name, or its number.
        stage: &'a str,
        /// The instruction's number in the stage, from 1.
        number: usize,
        /// How many the stage has.
        total: usize,
        /// The instruction on one line.
        text: &'a str,
    },
    /// What that instruction makes is there already.
    Cached,
    /// Something is strange, and no error.
    Warning(&'a str),
}

/// What was fetched from an address.
#[derive(Debug)]
pub struct Fetched {
    /// Its content.
    pub file: File,
    /// What tells it from any other content.
    pub digest: String,
}

impl Fetched {
    /// The content from its beginning, and its length in bytes.
    pub(crate) fn open(&self) -> io::Result<(File, u64)> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        let size = file.metadata()?.len();
        Ok((file, size))
    }
}

/// Whoever does what a build needs. All of it is called from one thread.
pub trait Worker {
    /// The image that a reference names, for a platform such as `linux/arm64`.
    ///
    /// # Errors
    ///
    /// It cannot be had.
    fn base(&mut self, reference: &str, platform: &str) -> Result<Base, BoxError>;

    /// Fetches what is at an address of http or https. If there is a `checksum`, as in `sha256:...`, it is
    /// what the content has to have.
    ///
    /// # Errors
    ///
    /// It cannot be had, or is something else.
    fn fetch(&mut self, address: &str, checksum: Option<&str>) -> Result<Fetched, BoxError>;

    /// A view of the root that layers make, the lowest first; of no layers it is empty.
    ///
    /// # Errors
    ///
    /// A layer cannot be read.
    fn root(&mut self, layers: &[Layer]) -> Result<Box<dyn Root>, BoxError>;

    /// Runs a command over layers, and keeps what it changed; `None` if it changed nothing.
    ///
    /// # Errors
    ///
    /// It could not be run, or ended with a code other than 0.
    fn run(&mut self, layers: &[Layer], run: &Run) -> Result<Option<Layer>, BoxError>;

    /// Keeps a layer. `write` writes it as an archive (OCI image specification, "Image Layer
    /// Filesystem Changeset"), and is called once.
    ///
    /// # Errors
    ///
    /// `write` failed, or it could not be kept.
    fn store(
        &mut self,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Layer, BoxError>;

    /// What [`remember`](Self::remember) was told of a key. Of a layer that is gone it knows nothing.
    fn cached(&mut self, key: &Key) -> Option<Option<Layer>>;

    /// Remembers what an instruction made; `None` is no layer.
    fn remember(&mut self, key: &Key, layer: Option<&Layer>);

    /// Hears what is being done.
    fn progress(&mut self, step: Step<'_>);
}
