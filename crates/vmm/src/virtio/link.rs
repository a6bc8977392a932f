//! What the guest and a device's back ends have agreed on: whoever serves the device, it is told the
//! same.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use pci::virtio::{BackendError, QueueSetup};
use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vmm_sys_util::eventfd::EventFd;

use super::connection::Connection;
use super::handshake::{self, Described, Offer};
use super::memory::MemoryTable;
use super::status::{Over, Status};
use super::vectors::Calls;
use super::watch::Watcher;
use super::{Error, Limits, rings};

/// A device, between the guest and whichever back end there is.
pub(super) struct Link {
    pub(super) status: Arc<Status>,
    pub(super) memory: MemoryTable,
    /// What the guest's notifications signal, one for each queue.
    pub(super) kicks: Vec<EventFd>,
    pub(super) calls: Calls,
    pub(super) limits: Limits,
    pub(super) described: Described,
    /// Held while a back end is told of it, so that none misses a change.
    pub(super) agreed: Mutex<Agreed>,
}

/// What the driver has chosen since the device was reset.
#[derive(Default)]
pub(super) struct Agreed {
    /// Its features, without vhost-user's own.
    features: Option<u64>,
    /// The queues of the active device.
    queues: Vec<QueueSetup>,
}

impl Link {
    /// Makes a back end acquainted with the device, on a thread of its own. If there was another,
    /// that one is gone.
    ///
    /// # Errors
    /// If there is no descriptor or thread left for it.
    pub(super) fn begin(self: &Arc<Self>, stream: UnixStream, life: u32) -> Result<(), Error> {
        let watched = stream.try_clone().map_err(Error::Connection)?;
        let watcher = Watcher::start(watched, life, Arc::clone(&self.status))?;
        let frontend = Frontend::from_stream(stream, self.kicks.len() as u64);
        let link = Arc::clone(self);
        let body = move || {
            if let Err(error) = link.meet(frontend, watcher, life) {
                link.status.fail(life, &error);
            }
        };
        thread::Builder::new()
            .name("device-hello".into())
            .spawn(body)
            .map_err(Error::Thread)?;
        Ok(())
    }

    fn meet(&self, mut frontend: Frontend, watcher: Watcher, life: u32) -> Result<(), Error> {
        let greet = || handshake::run(&mut frontend, &self.described, self.kicks.len());
        let offer = watcher.within(self.limits.handshake, greet)?;
        if let Some(first) = self.status.offer() {
            offer.covers(&first)?;
        }
        let connection = Connection {
            life,
            offer: Arc::new(offer),
            frontend,
            watcher,
        };
        let agreed = self.lock();
        connection.ask(self.limits.call, |offer, frontend| {
            self.tell_all(&agreed, offer, frontend)
        })?;
        self.status.ready(connection);
        drop(agreed);
        Ok(())
    }

    /// Tells a back end all that was agreed on before it came. It goes on where the used rings end:
    /// what another one took and did not finish is taken again.
    fn tell_all(
        &self,
        agreed: &Agreed,
        offer: &Offer,
        frontend: &mut Frontend,
    ) -> Result<(), Error> {
        let Some(features) = agreed.features else {
            return Ok(());
        };
        set_features(features, offer, frontend)?;
        if agreed.queues.is_empty() {
            return Ok(());
        }
        rings::start(self, &agreed.queues, rings::Base::Used, offer, frontend)?;
        for queue in &agreed.queues {
            // The other one may have been told of something and done nothing, or done it and told
            // nobody. An event that is full has been signalled.
            if let Some(kick) = self.kicks.get(usize::from(queue.index)) {
                let _ = kick.write(1);
            }
            let _ = self.calls.event(queue.vector).write(1);
        }
        Ok(())
    }

    /// What the guest is offered. Waits for it, at most until `patience`; none if the device has
    /// failed.
    pub(super) fn offer(&self, patience: Instant) -> Option<Arc<Offer>> {
        self.status.wait(patience)
    }

    /// The driver has chosen its features, which are among those that it was offered.
    pub(super) fn accept(&self, features: u64) -> Result<(), BackendError> {
        let mut agreed = self.lock();
        agreed.features = Some(features);
        self.ask(|offer, frontend| set_features(features, offer, frontend))?;
        Ok(())
    }

    pub(super) fn activate(&self, queues: &[QueueSetup]) -> Result<(), BackendError> {
        let mut agreed = self.lock();
        agreed.queues = queues.to_vec();
        self.ask(|offer, frontend| rings::start(self, queues, rings::Base::Zero, offer, frontend))?;
        Ok(())
    }

    pub(super) fn set_vector(&self, queue: u16, vector: Option<u16>) {
        let mut agreed = self.lock();
        let known = agreed.queues.iter_mut().find(|known| known.index == queue);
        if let Some(known) = known {
            known.vector = vector;
        }
        // A failure has been reported where people see it.
        let _ = self.ask(|_, frontend| {
            let set = frontend.set_vring_call(queue.into(), self.calls.event(vector));
            set.map_err(Error::request("SET_VRING_CALL"))
        });
    }

    /// Writes to the config space and returns what it is then; none if there is nobody to write to.
    pub(super) fn write_config(&self, offset: u32, data: &[u8], size: u32) -> Option<Vec<u8>> {
        if self.described.config_space.is_some() {
            // It is nobody's who could take that.
            return None;
        }
        let write = |_: &Offer, frontend: &mut Frontend| {
            let set = frontend.set_config(offset, VhostUserConfigFlags::WRITABLE, data);
            set.map_err(Error::request("SET_CONFIG"))?;
            handshake::read_config(frontend, size)
        };
        self.ask(write).ok().flatten()
    }

    /// Forgets what was agreed on, and makes the back end let go of the queues.
    pub(super) fn reset(&self) {
        let mut agreed = self.lock();
        let before = std::mem::take(&mut *agreed);
        if !before.queues.is_empty() {
            // A failure has been reported; then the connection is closed.
            let _ = self.ask(|offer, frontend| rings::stop(&before.queues, offer, frontend));
        }
        for kick in &self.kicks {
            // What nobody has seen was meant for a queue that is no more. It only fails when there
            // was no kick.
            let _ = kick.read();
        }
    }

    /// Asks the back end for a sign of life, if another may take its place. One that gives none within a
    /// call's limit has failed: it hangs, or was stopped.
    pub(super) fn check(&self) {
        if self.status.is_replaceable() {
            // What fails is reported where people see it.
            let _ = self.ask(|_, frontend| {
                let features = frontend.get_features();
                features.map_err(Error::request("GET_FEATURES"))
            });
        }
    }

    /// The queues of the active device.
    pub(super) fn active(&self) -> Vec<u16> {
        self.lock().queues.iter().map(|queue| queue.index).collect()
    }

    /// Asks the back end for something; none if there is no back end just now, which will hear of
    /// everything when it comes. One that cannot do it has failed.
    ///
    /// # Errors
    /// If the device has failed for good.
    fn ask<T>(
        &self,
        call: impl FnOnce(&Offer, &mut Frontend) -> Result<T, Error>,
    ) -> Result<Option<T>, BackendError> {
        let over = |Over| BackendError;
        let Some(connection) = self.status.connection().map_err(over)? else {
            return Ok(None);
        };
        match connection.ask(self.limits.call, call) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                self.status.fail(connection.life, &error);
                self.status.connection().map_err(over)?;
                Ok(None)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set_features(features: u64, offer: &Offer, frontend: &mut Frontend) -> Result<(), Error> {
    frontend
        .set_features(features | offer.own_features)
        .map_err(Error::request("SET_FEATURES"))
}
