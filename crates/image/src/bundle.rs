//! Images in files: an OCI layout in a directory or in an archive, and what `docker save` writes.

mod archive;
mod docker;
mod layout;

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use archive::Archive;
pub(crate) use docker::DockerArchive;
pub(crate) use layout::{FULL_NAME, Layout, REF_NAME};

use spec::Image;

use crate::{Error, Result, error::file, manifest::DOCUMENT_MAX};

/// Files by name, in a directory or in a tar archive.
#[derive(Debug)]
pub(crate) enum Bundle {
    Directory(PathBuf),
    Archive(Archive),
}

impl Bundle {
    /// Of a directory.
    pub(crate) fn directory(path: &Path) -> Self {
        Self::Directory(path.to_owned())
    }

    /// Of an archive, whose members are listed at once.
    pub(crate) fn archive(path: &Path) -> Result<Self> {
        Archive::open(path).map(Self::Archive)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
            Self::Archive(archive) => archive.path(),
        }
    }

    /// A file in it. `name` is relative, and made by us or looked up among an archive's members.
    pub(crate) fn open(&self, name: &str) -> Result<Section> {
        match self {
            Self::Directory(directory) => {
                let path = directory.join(name);
                let opened = File::open(&path).map_err(file("open", &path))?;
                let size = opened.metadata().map_err(file("read", &path))?.len();
                Ok(Section::new(opened, 0, size))
            }
            Self::Archive(archive) => archive.member(name),
        }
    }

    /// All of a document in it.
    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let section = self.open(name)?;
        let what = || format!("{name} in {}", self.path().display());
        if section.left > DOCUMENT_MAX {
            return Err(Error::malformed(what(), "it is larger than 4 MiB"));
        }
        let mut bytes = Vec::new();
        let read = section.take(DOCUMENT_MAX).read_to_end(&mut bytes);
        read.map_err(file("read", self.path()))?;
        Ok(bytes)
    }
}

/// The images in an archive of either kind. One that is both, as `docker save` has written since its
/// version 25, is read as OCI's unless it has several.
pub(crate) fn images(path: &Path) -> Result<Vec<Image>> {
    let bundle = Bundle::archive(path)?;
    let names = match bundle.open(docker::MANIFEST) {
        Ok(_) => docker::names(&bundle)?,
        Err(_) => Vec::new(),
    };
    let path = path.to_owned();
    if names.len() <= 1 && bundle.open(layout::MARK).is_ok() {
        return Ok(vec![Image::OciArchive { path }]);
    }
    if names.is_empty() {
        return Err(Error::malformed(
            path.display().to_string(),
            "it is an archive of neither podman's nor docker's",
        ));
    }
    let image = |name| Image::DockerArchive {
        path: path.clone(),
        name,
    };
    Ok(names.into_iter().map(image).collect())
}

/// A part of a file, read from its beginning, whoever else reads the file.
#[derive(Debug)]
pub(crate) struct Section {
    file: File,
    at: u64,
    left: u64,
}

impl Section {
    fn new(file: File, at: u64, size: u64) -> Self {
        Self {
            file,
            at,
            left: size,
        }
    }

    /// Bytes that are left.
    pub(crate) fn size(&self) -> u64 {
        self.left
    }

    /// The first bytes of what is left, which are not taken away.
    pub(crate) fn peek(&self) -> io::Result<[u8; 4]> {
        let mut beginning = [0; 4];
        let part = beginning.get_mut(..usize::try_from(self.left.min(4)).unwrap_or(4));
        self.file.read_exact_at(part.unwrap_or_default(), self.at)?;
        Ok(beginning)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        let count = self.file.read_at(part, self.at)?;
        let done = u64::try_from(count).unwrap_or(u64::MAX);
        self.at = self.at.saturating_add(done);
        self.left = self.left.saturating_sub(done);
        Ok(count)
    }
}
