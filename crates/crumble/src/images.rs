//! The user's images: got from registries and files, and made into roots.

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use image::{Blob, Compression, Progress, Pull, Registries, Store, Stored, Unpack};
use kernel::Cache;
use supervisor::{Device, Programs};
use wire::{
    agent::Lower,
    block,
    unpack::{self, Limits},
};

use crate::{Error, Image, assemble, partitions};

/// The serial number of the disk with the layers.
const SERIAL: &str = "image";

/// The largest layer: more is a mistake, or somebody who wants to fill a disk.
const LIMITS: Limits = Limits {
    bytes: 256 << 30,
    entries: 1_000_000,
};

/// The user's images.
///
/// ```no_run
/// use crumble::{Images, Pull};
///
/// # fn main() -> Result<(), crumble::Error> {
/// let images = Images::of_user()?;
/// let image = images.get(&"debian:bookworm".parse()?, &Pull::default(), &())?;
/// println!("{} has {} layers", image.name(), image.layers().len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Images {
    store: Store,
    /// Where what builds remember is.
    builds: PathBuf,
    programs: PathBuf,
}

impl Images {
    /// Those in the user's cache, with the settings of registries that the user and the host's
    /// administrator made.
    ///
    /// # Errors
    /// If the cache or the settings cannot be used.
    pub fn of_user() -> Result<Self, Error> {
        Self::with_programs(assemble::own_directory()?)
    }

    /// The same, where `crumble-unpack` is in this directory.
    ///
    /// # Errors
    /// As [`Images::of_user`].
    pub fn with_programs(directory: impl Into<PathBuf>) -> Result<Self, Error> {
        let cache = Cache::of_user().map_err(Error::Kernel)?;
        let registries = Registries::of_user()?;
        let store = Store::open(cache.root().join("images"))?;
        Ok(Self {
            store: store.with_registries(registries),
            builds: cache.root().join("builds"),
            programs: directory.into(),
        })
    }

    /// What is kept.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Unpacks layers, each in a process of its own that has nothing but two files.
    #[must_use]
    pub fn unpacker(&self) -> impl Unpack {
        Unpacker(Programs::in_directory(self.programs.clone()))
    }

    pub(crate) fn builds(&self) -> &Path {
        &self.builds
    }

    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    /// An image, whole. What is missing of it is fetched.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn get(
        &self,
        image: &Image,
        pull: &Pull,
        progress: &dyn Progress,
    ) -> Result<Stored, Error> {
        Ok(self.store.get(image, pull, &self.unpacker(), progress)?)
    }
}

struct Unpacker(Programs);

impl Unpack for Unpacker {
    fn unpack(
        &self,
        layer: Blob<'_>,
        output: File,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let config = unpack::Config {
            compression: match layer.compression {
                Compression::None => unpack::Compression::None,
                Compression::Gzip => unpack::Compression::Gzip,
                Compression::Zstd => unpack::Compression::Zstd,
            },
            diff_id: layer.diff_id.bytes(),
            limits: LIMITS,
        };
        supervisor::unpack::run(&self.0, &config, layer.file.into(), output.into())?;
        Ok(())
    }
}

/// The disk with unpacked layers, the lowest first, and what the guest makes of it.
pub(crate) fn disk<'p>(
    layers: impl IntoIterator<Item = &'p Path>,
) -> Result<(Device, Lower), Error> {
    let layers = layers.into_iter().map(open);
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let sectors: Vec<u64> = layers
        .iter()
        .map(|(_, bytes)| bytes / block::Config::SECTOR)
        .collect();
    let table = partitions::table(&sectors)?;
    let part = |bytes: &[u8]| -> Result<(OwnedFd, u64), Error> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok((assemble::in_memory(bytes)?, length))
    };
    let count = u8::try_from(layers.len()).unwrap_or(u8::MAX);
    let mut files = vec![part(&table.head)?];
    files.extend(layers);
    files.push(part(&table.tail)?);
    let extents = files.iter().map(|(_, bytes)| block::Extent {
        sectors: bytes / block::Config::SECTOR,
    });
    let config = block::Config {
        serial: SERIAL.to_owned(),
        read_only: true,
        extents: extents.collect(),
        queues: 1,
    };
    let files = files.into_iter().map(|(file, _)| file).collect();
    let device = Device::block(&config, files, "block-image").map_err(supervisor::Error::from)?;
    let serial = SERIAL.to_owned();
    Ok((device, Lower::Layers { serial, count }))
}

/// A layer's file, and its bytes.
fn open(path: &Path) -> Result<(OwnedFd, u64), Error> {
    let failed = |source| Error::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    Ok((file.into(), bytes))
}
