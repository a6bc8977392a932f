//! The user's images: got from registries and files, and made into roots.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
};

use build::BoxError;
use erofs::Reader;
use image::{
    Blob, Compression, Digest, Hold, Layer, Platform, Policy, Progress, Pull, Registries, Store,
    Stored, Unpack,
};
use kernel::Cache;
use supervisor::{Device, Programs};
use wire::{
    agent::Lower,
    block,
    unpack::{self, Limits},
};

use crate::{
    Error, Image, Machine, Name, Network, Reference, assemble, dockerfile::view, export,
    kept::Kept, partitions,
};

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

/// Roots of images.
impl Images {
    /// Writes the root that an image's layers make as one tar archive, as `docker export` does of a
    /// container. The image has to be here.
    ///
    /// # Errors
    /// [`Error::Image`] if it is not; [`Error::Export`].
    pub fn export(
        &self,
        name: &Reference,
        platform: &Platform,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        let pull = Pull {
            platform: platform.clone(),
            policy: Policy::Never,
        };
        let image = self.get(&Image::Registry(name.clone()), &pull, &())?;
        let layers: Vec<_> = image.layers().collect();
        let written = view(&layers).and_then(|root| export::write(&root, out));
        written.map_err(|source| Error::Export {
            name: name.to_string(),
            source,
        })
    }
}

/// Machines whose writes are kept.
impl Images {
    /// Makes an image of a machine that is kept and does not run: its own, with what was written as
    /// one layer more. Returns the digest of its manifest.
    ///
    /// # Errors
    /// [`Error::NoKept`], [`Error::KeptInUse`]; what keeps a machine from running, since one is needed
    /// to read what was written.
    pub fn commit(&self, name: &Name, new: &Reference) -> Result<Digest, Error> {
        let platform = Platform::of_host();
        let kept = Kept::existing(name)?;
        let image = kept.own_image(self, &platform)?;
        let (disk, upper) = kept.disk()?;
        let layers = image.layers().map(Path::to_owned).collect();
        let machine = Machine::builder(Image::Host)
            .programs(self.programs())
            .network(Network::None)
            .layers(layers)
            .upper(disk, upper)
            .start()?;
        let layer = keep(self, image.hold(), |writer| Ok(machine.changes(writer)?));
        let layer = layer.map_err(Error::Changes)?;
        machine.shutdown()?;
        let raw = self.store.inspect(image.name(), &platform)?;
        let document = serde_json::from_str(&raw.config).unwrap_or_default();
        let layers = [image.blobs(), &[layer]].concat();
        Ok(self.store.commit(image.hold(), document, &layers, new)?)
    }

    /// Removes a machine that is kept, with all that was written.
    ///
    /// # Errors
    /// [`Error::NoKept`], [`Error::KeptInUse`], [`Error::Kept`].
    pub fn forget(&self, name: &Name) -> Result<(), Error> {
        Kept::existing(name)?.remove(self)
    }
}

/// Keeps the layer whose archive `write` writes. It is compressed and unpacked on another thread.
pub(crate) fn keep(
    images: &Images,
    hold: &Hold,
    write: impl FnOnce(&mut dyn Write) -> Result<(), BoxError>,
) -> Result<Layer, BoxError> {
    let (mut reader, mut writer) = io::pipe()?;
    let (store, unpacker) = (images.store(), images.unpacker());
    let unpacker: &dyn Unpack = &unpacker;
    thread::scope(|scope| {
        let kept = scope.spawn(move || store.add_layer(hold, &mut reader, unpacker));
        let written = write(&mut writer);
        drop(writer);
        let kept = kept.join();
        let kept = kept.map_err(|_| "the thread that keeps layers panicked")?;
        // If nobody reads any more, the reason is on the other side.
        let kept = kept?;
        written.map(|()| kept)
    })
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
    serial: &str,
) -> Result<(Device, Lower), Error> {
    let layers = layers.into_iter().map(open);
    let layers = visible(layers.collect::<Result<_, _>>()?)?;
    let sectors: Vec<u64> = layers
        .iter()
        .map(|(_, bytes)| bytes / block::Config::SECTOR)
        .collect();
    let table = partitions::table(&sectors)?;
    let part = |bytes: &[u8]| -> Result<Opened, Error> {
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
        serial: serial.to_owned(),
        read_only: true,
        extents: extents.collect(),
        queues: 1,
    };
    let files = files.into_iter().map(|(file, _)| file).collect();
    let name = format!("block-{serial}");
    let device = Device::block(&config, files, &name).map_err(supervisor::Error::from)?;
    let serial = serial.to_owned();
    Ok((device, Lower::Layers { serial, count }))
}

/// An open layer, and its bytes.
type Opened = (OwnedFd, u64);

fn open(path: &Path) -> Result<(File, u64), Error> {
    let failed = |source| Error::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    Ok((file, bytes))
}

/// Leaves out the layers below one whose root hides them: overlayfs does not look for the mark there.
fn visible(layers: Vec<(File, u64)>) -> Result<Vec<Opened>, Error> {
    let mut visible: Vec<Opened> = Vec::new();
    for (file, bytes) in layers {
        let reader = Reader::open(&file)?;
        if reader.is_opaque(&reader.root())? {
            visible.clear();
        }
        visible.push((file.into(), bytes));
    }
    Ok(visible)
}

#[cfg(test)]
mod tests {
    use erofs::Attributes;

    use super::*;

    /// A layer with a directory, which hides all below it or not.
    fn layer(hides: bool) -> (File, u64) {
        let mut file = tempfile::tempfile().unwrap();
        let mut layer = erofs::Layer::new(&mut file);
        layer.directory(b"d", Attributes::default()).unwrap();
        if hides {
            layer.opaque(b"").unwrap();
        }
        let bytes = layer.finish().unwrap().size;
        (file, bytes)
    }

    #[test]
    fn layers_below_one_that_hides_them_are_left_out() {
        let count = |hides: &[bool]| {
            let layers = hides.iter().map(|hides| layer(*hides)).collect();
            visible(layers).unwrap().len()
        };
        assert_eq!(count(&[false, false, false]), 3);
        assert_eq!(count(&[false, true, false]), 2);
        assert_eq!(count(&[true, false, true]), 1);
    }
}
