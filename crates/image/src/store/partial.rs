//! The beginning of a blob.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use super::files;
use crate::{
    Descriptor, Error, Item, Result,
    digest::Hasher,
    error::{file, written},
    registry::Watch,
};

/// As much is read at once.
const CHUNK: usize = 128 << 10;

/// The beginning of a blob, on the disk and hashed as far as it goes.
#[derive(Debug)]
pub(crate) struct Partial<'a> {
    path: PathBuf,
    file: File,
    blob: &'a Descriptor,
    hasher: Hasher,
    len: u64,
    /// The greatest length that there ever was.
    furthest: u64,
}

impl<'a> Partial<'a> {
    /// What is there of it, which may be nothing.
    pub(super) fn open(path: PathBuf, blob: &'a Descriptor) -> Result<Self> {
        let mut options = File::options();
        let opened = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut partial = Self {
            file: opened.map_err(written(&path, blob.size))?,
            path,
            blob,
            hasher: Hasher::default(),
            len: 0,
            furthest: 0,
        };
        partial
            .hash_what_is_there()
            .map_err(file("read", &partial.path))?;
        if partial.len > blob.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn hash_what_is_there(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.hasher.update(buffer.get(..count).unwrap_or_default());
            self.len = self
                .len
                .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
    }

    /// Bytes that are there.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The greatest length that there ever was: who begins again and again does not get on.
    pub(crate) fn furthest(&self) -> u64 {
        self.furthest
    }

    /// Forgets what is there.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(written(&self.path, 0))?;
        self.hasher = Hasher::default();
        self.len = 0;
        Ok(())
    }

    /// Whether so many bytes more make it whole.
    ///
    /// # Errors
    /// [`Error::WrongSize`].
    pub(crate) fn expect(&self, length: u64) -> Result<()> {
        let found = self.len.saturating_add(length);
        match found == self.blob.size {
            true => Ok(()),
            false => Err(self.wrong_size(found.to_string())),
        }
    }

    /// Adds what `reader` has, up to the blob's end. The outer error is of this file, and of whoever
    /// does not want it any more; the inner one is the reader's.
    pub(crate) fn copy(
        &mut self,
        reader: &mut dyn Read,
        item: Option<&Item>,
        watch: Watch<'_>,
    ) -> Result<io::Result<()>> {
        let mut buffer = vec![0; CHUNK];
        while self.len < self.blob.size {
            watch.check()?;
            let left = usize::try_from(self.blob.size.saturating_sub(self.len)).unwrap_or(CHUNK);
            let space = buffer.get_mut(..left.min(CHUNK)).unwrap_or_default();
            let count = match reader.read(space) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(error)),
            };
            self.append(space.get(..count).unwrap_or_default())?;
            if let Some(item) = item {
                watch.progress.advance(item, self.len);
            }
        }
        Ok(Ok(()))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let missing = self.blob.size.saturating_sub(self.len);
        self.file
            .write_all(bytes)
            .map_err(written(&self.path, missing))?;
        self.hasher.update(bytes);
        self.len = self
            .len
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.furthest = self.furthest.max(self.len);
        Ok(())
    }

    fn wrong_size(&self, found: String) -> Error {
        Error::WrongSize {
            what: format!("the blob {}", self.blob.digest),
            expected: self.blob.size,
            found,
        }
    }

    /// Whether it is whole, and what it should be.
    pub(crate) fn check(&self) -> Result<()> {
        let found = self.hasher.digest();
        if self.len != self.blob.size {
            return Err(self.wrong_size(self.len.to_string()));
        }
        match found == self.blob.digest {
            true => Ok(()),
            false => Err(Error::WrongDigest {
                what: "a blob".to_owned(),
                expected: self.blob.digest,
                found,
            }),
        }
    }

    /// Makes it a blob, if it is one. What is none is removed.
    pub(super) fn finish(self, path: &Path) -> Result<()> {
        match self.check() {
            Ok(()) => files::finish(&self.file, &self.path, path),
            Err(error) => {
                fs::remove_file(&self.path).map_err(file("remove", &self.path))?;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::Digest;

    fn blob(bytes: &[u8]) -> Descriptor {
        Descriptor::new("", Digest::of(bytes), bytes.len() as u64)
    }

    fn fill(partial: &mut Partial<'_>, mut bytes: &[u8]) {
        let watch = Watch {
            progress: &(),
            stop: &AtomicBool::new(false),
        };
        partial.copy(&mut bytes, None, watch).unwrap().unwrap();
    }

    #[test]
    fn a_blob_is_whole_after_it_was_begun_twice() {
        let directory = tempfile::tempdir().unwrap();
        let (begun, whole) = (
            directory.path().join("begun"),
            directory.path().join("whole"),
        );
        let blob = blob(b"one two");
        fill(&mut Partial::open(begun.clone(), &blob).unwrap(), b"one");
        let mut again = Partial::open(begun.clone(), &blob).unwrap();
        assert_eq!(again.len(), 3);
        again.expect(4).unwrap();
        fill(&mut again, b" two");
        again.finish(&whole).unwrap();
        assert_eq!(fs::read(whole).unwrap(), b"one two");
        assert!(!begun.exists());
    }

    #[test]
    fn nothing_is_written_beyond_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let begun = directory.path().join("begun");
        let blob = blob(b"one");
        let mut partial = Partial::open(begun.clone(), &blob).unwrap();
        assert!(matches!(partial.expect(9), Err(Error::WrongSize { .. })));
        fill(&mut partial, b"one more");
        assert_eq!(fs::read(&begun).unwrap(), b"one");
    }

    #[test]
    fn what_is_too_short_or_something_else_gets_no_name() {
        for wrong in [&b"tw"[..], b"two"] {
            let directory = tempfile::tempdir().unwrap();
            let (begun, whole) = (
                directory.path().join("begun"),
                directory.path().join("whole"),
            );
            let blob = blob(b"one");
            let mut partial = Partial::open(begun.clone(), &blob).unwrap();
            fill(&mut partial, wrong);
            assert!(partial.finish(&whole).is_err());
            assert!(!begun.exists() && !whole.exists());
        }
    }

    #[test]
    fn what_was_left_of_a_longer_one_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let begun = directory.path().join("begun");
        fs::write(&begun, b"longer").unwrap();
        let blob = blob(b"one");
        let partial = Partial::open(begun, &blob).unwrap();
        assert_eq!(partial.len(), 0);
    }
}
