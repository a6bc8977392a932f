//! The images by name, in one small file that is replaced as a whole.

use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::{Store, files};
use crate::{Descriptor, Error, Platform, Result, error::file, text};

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    /// What was asked for when it came.
    pub(super) platform: Platform,
    pub(super) manifest: Descriptor,
}

#[derive(Default, Serialize, Deserialize)]
struct Names {
    images: Vec<Entry>,
}

impl Store {
    /// All images, by name.
    pub(super) fn entries(&self) -> Result<Vec<Entry>> {
        let path = self.root.join("names.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(file("read", path)(error)),
        };
        let names: Result<Names, _> = serde_json::from_slice(&bytes);
        names
            .map(|names| names.images)
            .map_err(|error| Error::Configuration {
                path,
                reason: format!(
                    "{}; if you remove it, images are fetched again",
                    text::shown(&error.to_string())
                ),
            })
    }

    /// The image of a name for a platform.
    pub(super) fn entry(&self, name: &str, platform: &Platform) -> Result<Option<Entry>> {
        let name = whole(name);
        let mut entries = self.entries()?.into_iter();
        Ok(entries.find(|entry| entry.name == name && entry.platform == *platform))
    }

    /// Gives an image a name, and takes it from the one that had it.
    pub(super) fn name(&self, entry: Entry) -> Result<()> {
        if self.entries()?.contains(&entry) {
            return Ok(());
        }
        self.change(|entries| {
            entries.retain(|other| other.name != entry.name || other.platform != entry.platform);
            entries.push(entry);
        })
    }

    /// Nobody else changes the names meanwhile.
    pub(super) fn change<T>(&self, act: impl FnOnce(&mut Vec<Entry>) -> T) -> Result<T> {
        let _turn = self.exclusive("names")?;
        let mut images = self.entries()?;
        let result = act(&mut images);
        images
            .sort_by(|one, other| (&one.name, &one.platform).cmp(&(&other.name, &other.platform)));
        let bytes = serde_json::to_vec_pretty(&Names { images });
        let bytes =
            bytes.map_err(|error| Error::malformed("the list of images", error.to_string()))?;
        files::write(&self.root.join("names.json"), &bytes)?;
        Ok(result)
    }
}

/// A name as it is kept: a reference with what it leaves out, anything else as it is.
pub(super) fn whole(name: &str) -> String {
    match name.parse::<spec::Image>() {
        Ok(image) => image.to_string(),
        Err(_) => name.to_owned(),
    }
}
