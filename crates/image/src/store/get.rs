//! Getting an image: what is missing is fetched and unpacked, several layers at a time.

use std::{
    collections::BTreeSet,
    num::NonZero,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use spec::{Image, Reference};

use super::{
    Hold, Layer, Policy, Pull, Store, Stored, Unpack, blobs::item, files, names::Entry, stored,
};
use crate::{
    Error, Platform, Progress, Result, Step,
    bundle::{self, Bundle, DockerArchive, Layout},
    config,
    origin::{Origin, Resolved, resolve},
    registry::{Remote, Watch},
};

/// Layers that are fetched at the same time.
const DOWNLOADS: usize = 3;

/// Layers that are unpacked at the same time at most.
const UNPACKS_MAX: usize = 4;

/// What it takes to make an image whole.
struct Job<'a> {
    store: &'a Store,
    /// Where what is missing comes from, if it may come.
    origin: Option<&'a dyn Origin>,
    platform: &'a Platform,
    unpack: &'a dyn Unpack,
    watch: Watch<'a>,
}

impl Store {
    /// An image, whole. From a registry, it is kept under its name; what is in files is kept under
    /// what it is called on the command line.
    ///
    /// # Errors
    /// Whatever there is in [`Error`]. What has come already is kept for the next attempt.
    pub fn get(
        &self,
        source: &Image,
        pull: &Pull,
        unpack: &dyn Unpack,
        progress: &dyn Progress,
    ) -> Result<Stored> {
        let Image::Registry(reference) = source else {
            return self.import_as(
                source,
                &[source.to_string()],
                &pull.platform,
                unpack,
                progress,
            );
        };
        let hold = self.hold()?;
        let name = reference.to_string();
        let remote = Remote::new(reference, &self.registries);
        let stop = AtomicBool::new(false);
        let job = Job {
            store: self,
            origin: (pull.policy != Policy::Never).then_some(&remote),
            platform: &pull.platform,
            unpack,
            watch: Watch {
                progress,
                stop: &stop,
            },
        };
        let here = match pull.policy {
            Policy::Always => None,
            Policy::Missing | Policy::Never => self.entry(&name, &pull.platform)?,
        };
        // One that is damaged is as good as none.
        let here = here.and_then(|entry| self.resolved(&entry).ok());
        let resolved = match (here, job.origin) {
            (Some(resolved), _) => resolved,
            (None, Some(origin)) => resolve(origin, &name, &pull.platform, job.watch)?,
            (None, None) => return Err(Error::Missing(name)),
        };
        job.complete(&[name], resolved, hold)
    }

    /// Takes an image from a layout or an archive into the store: under this name, or else under
    /// those that it has in there.
    ///
    /// # Errors
    /// As [`Self::get`]; [`Error::NotKept`] if `source` is no file.
    pub fn import(
        &self,
        source: &Image,
        name: Option<&Reference>,
        platform: &Platform,
        unpack: &dyn Unpack,
        progress: &dyn Progress,
    ) -> Result<Stored> {
        let names: Vec<String> = name.into_iter().map(Reference::to_string).collect();
        self.import_as(source, &names, platform, unpack, progress)
    }

    /// Takes all images of an archive into the store that `docker save`, `podman save`, skopeo or
    /// [`Self::save`] have written, under the names that they have in there.
    ///
    /// # Errors
    /// As [`Self::get`]; [`Error::Malformed`] if it is no such archive. Those before the one that fails
    /// are in the store.
    pub fn load(
        &self,
        path: &Path,
        platform: &Platform,
        unpack: &dyn Unpack,
        progress: &dyn Progress,
    ) -> Result<Vec<Stored>> {
        let sources = bundle::images(path)?;
        let load = |source: &Image| self.import(source, None, platform, unpack, progress);
        sources.iter().map(load).collect()
    }

    fn import_as(
        &self,
        source: &Image,
        names: &[String],
        platform: &Platform,
        unpack: &dyn Unpack,
        progress: &dyn Progress,
    ) -> Result<Stored> {
        let hold = self.hold()?;
        let (origin, own) = open(source)?;
        let whole = |name: &String| name.parse::<Reference>().map(|name| name.to_string());
        let mut own: Vec<String> = own.iter().filter_map(|name| whole(name).ok()).collect();
        if own.is_empty() {
            own.push(source.to_string());
        }
        let names = if names.is_empty() {
            own.as_slice()
        } else {
            names
        };
        let stop = AtomicBool::new(false);
        let job = Job {
            store: self,
            origin: Some(&*origin),
            platform,
            unpack,
            watch: Watch {
                progress,
                stop: &stop,
            },
        };
        let resolved = resolve(&*origin, &source.to_string(), platform, job.watch)?;
        job.complete(names, resolved, hold)
    }
}

/// The image in a file, and what it is called in there.
fn open(source: &Image) -> Result<(Box<dyn Origin>, Vec<String>)> {
    let layout = |layout: Layout| {
        let names = layout.name().map(str::to_owned).into_iter().collect();
        (Box::new(layout) as Box<dyn Origin>, names)
    };
    match source {
        Image::Layout { path, name } => {
            Layout::new(Bundle::directory(path), name.as_deref()).map(layout)
        }
        Image::OciArchive { path } => Layout::new(Bundle::archive(path)?, None).map(layout),
        Image::DockerArchive { path, name } => {
            let archive = DockerArchive::new(Bundle::archive(path)?, name.as_deref())?;
            let names = archive.names().to_vec();
            Ok((Box::new(archive), names))
        }
        Image::Host | Image::Busybox | Image::Directory(_) | Image::Registry(_) => {
            Err(Error::NotKept(source.to_string()))
        }
    }
}

impl Job<'_> {
    /// Gets everything that the manifest names, and then gives it its names. There is at least one.
    fn complete(&self, names: &[String], resolved: Resolved, hold: Hold) -> Result<Stored> {
        let name = names.first().cloned().unwrap_or_default();
        let manifest = &resolved.manifest;
        self.store
            .put(resolved.descriptor.digest, &resolved.bytes)?;
        let written = self
            .store
            .fetched(&manifest.config, self.origin, self.watch)?;
        let (config, diff_ids) = config::parse(&name, &written)?;
        if let Some(offered) = config.platform()
            && self.platform.suits(&offered).is_none()
        {
            return Err(Error::NoPlatform {
                name,
                wanted: self.platform.clone(),
                offered: crate::text::shown(&offered.to_string()),
            });
        }
        let layers = stored::layers(&name, manifest, diff_ids)?;
        self.layers(&layers)?;
        for name in names {
            self.store.name(Entry {
                name: name.clone(),
                platform: self.platform.clone(),
                manifest: resolved.descriptor.clone(),
            })?;
        }
        let paths = layers
            .iter()
            .map(|layer| self.store.layer_path(layer.diff_id))
            .collect();
        Ok(Stored {
            name,
            descriptor: resolved.descriptor,
            config,
            config_digest: manifest.config.digest,
            layers,
            paths,
            hold,
        })
    }

    /// Fetches and unpacks what is missing. A layer is unpacked while others are still coming.
    fn layers(&self, layers: &[Layer]) -> Result<()> {
        let missing = self.missing(layers)?;
        let downloads = missing.len().min(DOWNLOADS);
        let unpacks = missing
            .len()
            .min(thread::available_parallelism().map_or(1, NonZero::get));
        let queue = Mutex::new(missing.iter());
        let (sender, receiver) = mpsc::channel();
        let receiver = Mutex::new(receiver);
        let first = Mutex::new(None);
        thread::scope(|scope| {
            let failed = |error: Error| {
                self.watch.stop.store(true, Ordering::Relaxed);
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                if first
                    .as_ref()
                    .is_none_or(|first| matches!(first, Error::Stopped))
                {
                    *first = Some(error);
                }
            };
            for _ in 0..downloads {
                let (queue, sender) = (&queue, sender.clone());
                scope.spawn(move || self.download(layers, queue, &sender).unwrap_or_else(failed));
            }
            drop(sender);
            for _ in 0..unpacks.min(UNPACKS_MAX) {
                let receiver = &receiver;
                scope.spawn(move || self.unpack(layers, receiver).unwrap_or_else(failed));
            }
        });
        first
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }

    /// Which layers are not here, each once.
    fn missing(&self, layers: &[Layer]) -> Result<Vec<usize>> {
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let here = files::exists(&self.store.blob_path(layer.blob.digest))?
                && files::exists(&self.store.layer_path(layer.diff_id))?;
            if seen.insert((layer.blob.digest, layer.diff_id)) && !here {
                missing.push(index);
            }
        }
        Ok(missing)
    }

    /// Fetches layers until there are no more, and hands them on.
    fn download(
        &self,
        layers: &[Layer],
        queue: &Mutex<std::slice::Iter<'_, usize>>,
        done: &Sender<usize>,
    ) -> Result<()> {
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next()
                .copied();
            let Some((index, layer)) = next.and_then(|index| Some((index, layers.get(index)?)))
            else {
                return Ok(());
            };
            self.watch.check()?;
            let item = item(Step::Download, index, layers.len(), &layer.blob);
            self.watch.progress.begin(&item);
            self.store
                .blob(&layer.blob, self.origin, Some(&item), self.watch)?;
            self.watch.progress.end(&item);
            // Nobody takes it if something failed.
            let _ = done.send(index);
        }
    }

    /// Unpacks layers as they come, until no more come.
    fn unpack(&self, layers: &[Layer], ready: &Mutex<Receiver<usize>>) -> Result<()> {
        loop {
            let next = ready.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Some((index, layer)) = next
                .ok()
                .and_then(|index| Some((index, layers.get(index)?)))
            else {
                return Ok(());
            };
            self.watch.check()?;
            let item = item(Step::Unpack, index, layers.len(), &layer.blob);
            self.watch.progress.begin(&item);
            self.store
                .layer(layer, self.unpack, Some(&item), self.watch)?;
            self.watch.progress.end(&item);
        }
    }
}
