//! One back end, and the connection to it.

use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::Frontend;

use super::Error;
use super::handshake::Offer;
use super::watch::Watcher;

/// A back end that has said what it offers.
pub(super) struct Connection {
    /// Which of the device's back ends it is.
    pub(super) life: u32,
    /// What it offers.
    pub(super) offer: Arc<Offer>,
    pub(super) frontend: Frontend,
    pub(super) watcher: Watcher,
}

impl Connection {
    /// Asks the back end for something, which it has to do within `limit`.
    ///
    /// # Errors
    /// What it did instead.
    pub(super) fn ask<T>(
        &self,
        limit: Duration,
        call: impl FnOnce(&Offer, &mut Frontend) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Clones share the connection.
        let mut frontend = self.frontend.clone();
        self.watcher
            .within(limit, || call(&self.offer, &mut frontend))
    }
}
