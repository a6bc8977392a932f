//! Whoever wants to see how it goes.

use std::time::Duration;

use crate::Digest;

/// What is done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is fetched from a registry, or copied from a file.
    Download,
    /// Its file system image is made.
    Unpack,
    /// It is sent to a registry.
    Upload,
}

/// One step of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What is done.
    pub step: Step,
    /// With which layer, from 0.
    pub index: usize,
    /// Of how many.
    pub count: usize,
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub total: u64,
}

/// Is told how it goes, by several threads at once. Every function does nothing if not defined.
pub trait Progress: Sync {
    /// A step begins.
    fn begin(&self, item: &Item) {
        let _ = item;
    }

    /// So many bytes of it are done; fewer than before if it had to begin again.
    fn advance(&self, item: &Item, done: u64) {
        let _ = (item, done);
    }

    /// Somebody else is doing it, and we wait.
    fn waiting(&self, item: &Item) {
        let _ = item;
    }

    /// It is done.
    fn end(&self, item: &Item) {
        let _ = item;
    }

    /// Something failed, and is tried again after `wait`, or somewhere else.
    fn retry(&self, reason: &str, wait: Duration) {
        let _ = (reason, wait);
    }
}

/// Nobody looks.
impl Progress for () {}
