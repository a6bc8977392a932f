//! From what the user asked for to a kernel that loads.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    bzimage,
    cache::Cache,
    distribution,
    error::{Error, Result, file},
};

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file: an ELF `vmlinux` or a bzImage.
    Path {
        /// The file.
        kernel: PathBuf,
        /// Its `lib/modules/RELEASE`, if not everything that machines need is built in.
        modules: Option<PathBuf>,
    },
    /// The distribution's kernel for virtual machines, fetched through apt when the cache has
    /// none. No root is needed.
    Distribution,
    /// The kernel that `cargo xtask kernel` builds.
    Tuned,
}

/// A kernel that the VMM can load as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The ELF file.
    pub vmlinux: PathBuf,
    /// Its release (`uname -r`) if that is cheaply known, else the file's name.
    pub release: String,
    /// Its `lib/modules/RELEASE`; none if everything is built in.
    pub modules: Option<PathBuf>,
    /// Whether it may refuse modules without signatures, as a kernel that we know nothing of may.
    pub keep_signatures: bool,
}

/// Finds the kernel, fetching and unpacking it when the cache does not have it yet. `progress` is
/// told, in words for people, of each step that takes time.
///
/// # Errors
/// Says which file or command failed, and what mends it.
pub fn resolve(source: &Source, cache: &Cache, progress: &mut dyn FnMut(&str)) -> Result<Kernel> {
    match source {
        Source::Path { kernel, modules } => from_path(kernel, modules.as_deref(), cache, progress),
        Source::Distribution => distribution::resolve(cache, progress),
        Source::Tuned => tuned(cache),
    }
}

/// The distribution's kernel if the cache has it.
#[must_use]
pub fn cached(cache: &Cache) -> Option<Kernel> {
    distribution::cached(&cache.kernels())
}

fn tuned(cache: &Cache) -> Result<Kernel> {
    let vmlinux = cache.tuned();
    if !vmlinux.is_file() {
        return Err(Error::NoTuned { path: vmlinux });
    }
    Ok(Kernel {
        vmlinux,
        release: "tuned".into(),
        modules: None,
        keep_signatures: false,
    })
}

fn from_path(
    path: &Path,
    modules: Option<&Path>,
    cache: &Cache,
    progress: &mut dyn FnMut(&str),
) -> Result<Kernel> {
    let mut start = Vec::new();
    let mut image = fs::File::open(path).map_err(file("open the kernel", path))?;
    (&mut image)
        .take(0x1000)
        .read_to_end(&mut start)
        .map_err(file("read the kernel", path))?;
    let (vmlinux, release) = if start.starts_with(b"\x7fELF") {
        (path.to_owned(), None)
    } else if bzimage::is_bzimage(&start) {
        image
            .read_to_end(&mut start)
            .map_err(file("read the kernel", path))?;
        unpacked(path, &start, cache, progress)?
    } else {
        return Err(Error::NotAKernel { path: path.into() });
    };
    let named = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
    Ok(Kernel {
        release: release
            .or_else(|| modules.and_then(named))
            .or_else(|| named(path))
            .unwrap_or_default(),
        vmlinux,
        modules: modules.map(Path::to_owned),
        keep_signatures: true,
    })
}

/// The kernel inside a bzImage, from the cache if these very bytes were unpacked before.
fn unpacked(
    path: &Path,
    image: &[u8],
    cache: &Cache,
    progress: &mut dyn FnMut(&str),
) -> Result<(PathBuf, Option<String>)> {
    let name = blake3::hash(image).to_hex();
    let vmlinux = cache.kernels().join("unpacked").join(name.as_str());
    if !vmlinux.is_file() {
        progress(&format!("unpacking {}", path.display()));
        Cache::write(&vmlinux, &unpack(path, image)?)?;
    }
    Ok((vmlinux, bzimage::release(image)))
}

/// [`bzimage::unpack`] with the file's name in the error.
pub(crate) fn unpack(path: &Path, image: &[u8]) -> Result<Vec<u8>> {
    bzimage::unpack(image).map_err(|reason| Error::Unpack {
        path: path.to_owned(),
        reason,
    })
}
