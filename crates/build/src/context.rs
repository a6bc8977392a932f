//! The context: a directory of the host, less what its `.dockerignore` hides.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{BoxError, Error},
    ignore::Ignore,
    root::{Entry, Kind, Root},
};

/// What an image is built from.
#[derive(Debug, Clone)]
pub struct Context {
    directory: PathBuf,
    /// The name of the Dockerfile, for errors.
    pub(crate) file: String,
    /// What is in it.
    pub(crate) dockerfile: Vec<u8>,
    pub(crate) ignore: Ignore,
}

impl Context {
    /// A directory, its Dockerfile (`Dockerfile` in it by default) and `.dockerignore`. A file called
    /// like the Dockerfile with `.dockerignore` behind is taken before that.
    ///
    /// # Errors
    ///
    /// The Dockerfile is not there, a file cannot be read, or `.dockerignore` has a line that is no pattern.
    pub fn open(directory: &Path, file: Option<&Path>) -> Result<Self, Error> {
        let inside = directory.join("Dockerfile");
        let file = file.unwrap_or(&inside);
        let dockerfile = fs::read(file).map_err(|error| missing(file, error))?;
        Ok(Self {
            directory: directory.to_owned(),
            file: file.display().to_string(),
            dockerfile,
            ignore: ignore(directory, file)?,
        })
    }

    /// Whether the directory has a path, hidden or not.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.directory.join(path).symlink_metadata().is_ok()
    }

    /// Its directory, for people.
    pub(crate) fn directory(&self) -> impl std::fmt::Display {
        self.directory.display()
    }

    /// Reads a tree that has only what is not hidden.
    pub(crate) fn tree(&self) -> Tree<'_> {
        Tree { context: self }
    }
}

fn missing(file: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::Whole {
            file: file.display().to_string(),
            reason: "there is no such file; name the Dockerfile with -f".to_owned(),
        },
        _ => Error::file(file)(error),
    }
}

fn ignore(directory: &Path, file: &Path) -> Result<Ignore, Error> {
    let mut own = file.as_os_str().to_owned();
    own.push(".dockerignore");
    for path in [PathBuf::from(own), directory.join(".dockerignore")] {
        match fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                return Ignore::parse(&text).map_err(|reason| Error::Whole {
                    file: path.display().to_string(),
                    reason,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::file(&path)(error)),
        }
    }
    Ok(Ignore::default())
}

/// The context as a tree. Everything in it belongs to root, as the reference says of `COPY`.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    context: &'a Context,
}

impl Tree<'_> {
    fn path(&self, path: &Path) -> PathBuf {
        self.context.directory.join(path)
    }

    /// Whether a path is not hidden, or a directory with something in it that is not.
    fn is_shown(&self, path: &Path) -> io::Result<bool> {
        let text = path.to_string_lossy();
        let ignore = &self.context.ignore;
        if path.as_os_str().is_empty() || !ignore.hides(&text) {
            return Ok(true);
        }
        if !ignore.may_show_below(&text) || !fs::symlink_metadata(self.path(path))?.is_dir() {
            return Ok(false);
        }
        for name in list(&self.path(path))? {
            if self.is_shown(&path.join(name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn list(directory: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

impl Root for Tree<'_> {
    fn entry(&mut self, path: &Path) -> Result<Option<Entry>, BoxError> {
        let host = self.path(path);
        // The context itself may be a link to a directory; all else is what it is.
        let read = match path.as_os_str().is_empty() {
            true => fs::metadata(&host),
            false => fs::symlink_metadata(&host),
        };
        let metadata = match read {
            Ok(metadata) => metadata,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !self.is_shown(path)? {
            return Ok(None);
        }
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Symlink(fs::read_link(&host)?),
            _ => Kind::Other,
        };
        Ok(Some(Entry {
            size: if kind == Kind::File {
                metadata.size()
            } else {
                0
            },
            kind,
            mode: metadata.mode() & 0o7777,
            uid: 0,
            gid: 0,
            mtime: u64::try_from(metadata.mtime()).unwrap_or(0),
            xattrs: Vec::new(),
        }))
    }

    fn names(&mut self, path: &Path) -> Result<Vec<OsString>, BoxError> {
        let mut names = list(&self.path(path))?;
        let mut failed = None;
        names.retain(|name: &OsString| {
            let name: &OsStr = name;
            let shown = self.is_shown(&path.join(name));
            shown.unwrap_or_else(|error| {
                failed = Some(error);
                false
            })
        });
        failed.map_or(Ok(names), |error| Err(error.into()))
    }

    fn open(&mut self, path: &Path) -> Result<Box<dyn Read + '_>, BoxError> {
        Ok(Box::new(File::open(self.path(path))?))
    }
}

/// Whether a name is simply not there.
fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
