//! The store: a directory of blobs, of layers made from them, and of names.
//!
//! ```text
//! version                  the form of all this
//! blobs/sha256/HEX         manifests, configurations and layers as they came
//! blobs/sha256/HEX.partial the beginning of one
//! layers/sha256/DIFFID     what was made of a layer
//! names.json               the images
//! locks/                   empty files
//! ```

mod blobs;
mod build;
mod files;
mod get;
mod layers;
mod lock;
mod names;
mod partial;
mod prune;
mod push;
mod save;
mod stored;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

pub(crate) use partial::Partial;
pub use prune::Pruned;
pub use save::Format;
pub use stored::{Hold, Layer, Raw, Stored, Summary};

use crate::{
    Compression, Digest, Error, Platform, Registries, Result,
    error::{Cause, file},
};

/// The form of a store that this code reads and writes.
const VERSION: u32 = 1;

/// A directory of images.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    registries: Registries,
}

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// If the image is not here yet.
    #[default]
    Missing,
    /// Each time: the name may lead to another image than it did.
    Always,
    /// Not at all.
    Never,
}

/// Which image of a name, and when to fetch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// The machine that it is for.
    pub platform: Platform,
    /// When to fetch it. What is in files is always looked at again.
    pub policy: Policy,
}

impl Default for Pull {
    /// For this host's CPU, if it is not here yet.
    fn default() -> Self {
        Self {
            platform: Platform::of_host(),
            policy: Policy::default(),
        }
    }
}

/// A layer as it came.
#[derive(Debug)]
pub struct Blob<'a> {
    /// Open for reading, at its beginning.
    pub file: File,
    /// How the archive in it is compressed.
    pub compression: Compression,
    /// What the digest of the archive has to be.
    pub diff_id: &'a Digest,
    /// Bytes of `file`.
    pub size: u64,
}

/// Makes the file system image of a layer.
pub trait Unpack: Sync {
    /// Reads `layer` to its end, checks that the archive in it has the digest `diff_id`, and writes
    /// the image to `output`, which is empty and open for reading and writing. Several threads may
    /// call it at once.
    ///
    /// # Errors
    /// Whatever makes the result useless: nobody will see it then.
    fn unpack(&self, layer: Blob<'_>, output: File) -> Result<(), Cause>;
}

impl Store {
    /// Opens the store in a directory, which is made if need be. It knows of no registries'
    /// settings.
    ///
    /// # Errors
    /// [`Error::StoreVersion`] if it was made by another version, [`Error::File`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let store = Self {
            root: root.into(),
            registries: Registries::default(),
        };
        fs::create_dir_all(&store.root).map_err(file("make the directory", &store.root))?;
        store.check_version()?;
        for directory in ["blobs/sha256", "layers/sha256", "locks"] {
            let path = store.root.join(directory);
            fs::create_dir_all(&path).map_err(file("make the directory", &path))?;
        }
        Ok(store)
    }

    /// The same, with these settings of registries.
    #[must_use]
    pub fn with_registries(mut self, registries: Registries) -> Self {
        self.registries = registries;
        self
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The version is written before anything else, so what has none is empty, or not ours.
    fn check_version(&self) -> Result<()> {
        let path = self.root.join("version");
        let found = match fs::read_to_string(&path) {
            Ok(found) => found.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !self.root.join("blobs").exists() {
                    return files::write(&path, format!("{VERSION}\n").as_bytes());
                }
                "without a number".to_owned()
            }
            Err(error) => return Err(file("read", path)(error)),
        };
        match found == VERSION.to_string() {
            true => Ok(()),
            false => Err(Error::StoreVersion {
                path: self.root.clone(),
                found: crate::text::shown(&found),
                known: VERSION,
            }),
        }
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs").join("sha256").join(digest.hex())
    }

    /// The file that a layer is unpacked to. It is there as long as an image with the layer is, or
    /// a [`Hold`].
    #[must_use]
    pub fn unpacked(&self, layer: &Layer) -> PathBuf {
        self.layer_path(layer.diff_id)
    }

    /// Whether a layer is here, as it came and unpacked.
    #[must_use]
    pub fn has(&self, layer: &Layer) -> bool {
        self.blob_path(layer.blob.digest).exists() && self.layer_path(layer.diff_id).exists()
    }

    fn layer_path(&self, diff_id: Digest) -> PathBuf {
        self.root.join("layers").join("sha256").join(diff_id.hex())
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }
}
