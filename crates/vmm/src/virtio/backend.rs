//! A virtio device whose work is done by a vhost-user back end in another process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pci::virtio::{Activation, BackendError, QueueSetup, VirtioBackend};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};

use super::doorbells::Doorbells;
use super::handshake::{self, Offer};
use super::host::Host;
use super::memory::MemoryTable;
use super::status::Status;
use super::vectors::Calls;
use super::watch::Watcher;
use super::{Error, Limits};

/// The front end of one device.
pub struct VhostUser<H: Host> {
    pub(super) status: Arc<Status>,
    pub(super) watcher: Arc<Watcher>,
    pub(super) frontend: Frontend,
    pub(super) memory: MemoryTable,
    pub(super) doorbells: Doorbells<H>,
    pub(super) calls: Calls,
    pub(super) limits: Limits,
    /// When a vCPU stops to wait for the handshake.
    pub(super) patience: Instant,
    /// The config space as last read; none before the handshake's has been taken over.
    pub(super) config: Option<Vec<u8>>,
    /// The queues that the back end has.
    pub(super) active: Vec<u16>,
}

impl<H: Host> VhostUser<H> {
    /// What the back end offered, once it has; none if it failed.
    fn offer(&self) -> Option<Arc<Offer>> {
        self.status.wait(self.patience)
    }

    /// Asks the back end for something. If it cannot do it, it has failed.
    fn ask<T>(
        &mut self,
        call: impl FnOnce(&mut Frontend) -> Result<T, Error>,
    ) -> Result<T, BackendError> {
        ask(
            &self.watcher,
            self.limits.call,
            &self.status,
            &mut self.frontend,
            call,
        )
    }

    fn start(&mut self, activation: &Activation, offer: &Offer) -> Result<(), BackendError> {
        let own_features = offer.own_features != 0;
        let rings = activation
            .queues
            .iter()
            .map(|queue| Ok((queue, self.ring(queue)?)))
            .collect::<Result<Vec<_>, BackendError>>()?;
        let Self {
            watcher,
            limits,
            status,
            frontend,
            memory,
            doorbells,
            calls,
            ..
        } = self;
        ask(watcher, limits.call, status, frontend, |frontend| {
            let regions = memory.regions();
            frontend
                .set_mem_table(regions)
                .map_err(Error::request("SET_MEM_TABLE"))?;
            for (queue, ring) in rings {
                let at = usize::from(queue.index);
                let kick = doorbells
                    .kick(queue.index)
                    .ok_or(Error::NoQueue(queue.index))?;
                let call = calls.event(queue.vector);
                frontend
                    .set_vring_num(at, queue.size)
                    .map_err(Error::request("SET_VRING_NUM"))?;
                frontend
                    .set_vring_base(at, 0)
                    .map_err(Error::request("SET_VRING_BASE"))?;
                frontend
                    .set_vring_addr(at, &ring)
                    .map_err(Error::request("SET_VRING_ADDR"))?;
                frontend
                    .set_vring_call(at, call)
                    .map_err(Error::request("SET_VRING_CALL"))?;
                frontend
                    .set_vring_kick(at, kick)
                    .map_err(Error::request("SET_VRING_KICK"))?;
                if own_features {
                    let enabled = frontend.set_vring_enable(at, true);
                    enabled.map_err(Error::request("SET_VRING_ENABLE"))?;
                }
            }
            Ok(())
        })
    }

    /// A ring's addresses as the back end needs them.
    fn ring(&self, queue: &QueueSetup) -> Result<VringConfigData, BackendError> {
        // The transport has checked that the whole of each ring is RAM.
        let host = |address| self.memory.host_address(address, 1).ok_or(BackendError);
        Ok(VringConfigData {
            queue_max_size: queue.size,
            queue_size: queue.size,
            flags: 0,
            desc_table_addr: host(queue.descriptors)?,
            used_ring_addr: host(queue.used)?,
            avail_ring_addr: host(queue.available)?,
            log_addr: None,
        })
    }

    /// Stops every ring. GET_VRING_BASE is answered when the back end has let go of the ring.
    fn stop(&mut self, offer: &Offer) -> Result<(), BackendError> {
        let active = std::mem::take(&mut self.active);
        let own_features = offer.own_features != 0;
        let reset = offer
            .protocol
            .contains(VhostUserProtocolFeatures::RESET_DEVICE);
        self.ask(|frontend| {
            for queue in active {
                let at = usize::from(queue);
                if own_features {
                    let disabled = frontend.set_vring_enable(at, false);
                    disabled.map_err(Error::request("SET_VRING_ENABLE"))?;
                }
                frontend
                    .get_vring_base(at)
                    .map_err(Error::request("GET_VRING_BASE"))?;
            }
            if reset {
                frontend
                    .reset_device()
                    .map_err(Error::request("RESET_DEVICE"))?;
            }
            Ok(())
        })
    }

    fn hang_doorbells(&mut self, notify: Option<u64>) -> Result<(), BackendError> {
        self.doorbells.hang(&self.active, notify).map_err(|error| {
            self.status.fail(&error);
            BackendError
        })
    }

    fn config(&mut self) -> Option<&[u8]> {
        let offer = self.offer()?;
        Some(self.config.get_or_insert_with(|| offer.config.clone()))
    }
}

impl<H: Host> VirtioBackend for VhostUser<H> {
    fn features(&mut self) -> u64 {
        self.offer().map_or(0, |offer| offer.features)
    }

    fn accept(&mut self, features: u64) -> bool {
        let Some(offer) = self.offer() else {
            return false;
        };
        let features = features & offer.features | offer.own_features;
        let set = |frontend: &mut Frontend| {
            frontend
                .set_features(features)
                .map_err(Error::request("SET_FEATURES"))
        };
        self.ask(set).is_ok()
    }

    fn activate(&mut self, activation: &Activation) -> Result<(), BackendError> {
        let offer = self.offer().ok_or(BackendError)?;
        self.active = activation.queues.iter().map(|queue| queue.index).collect();
        self.start(activation, &offer)?;
        self.hang_doorbells(activation.notify)
    }

    fn move_notify(&mut self, address: Option<u64>) {
        // A failure has been reported where people see it.
        let _ = self.hang_doorbells(address);
    }

    fn set_vector(&mut self, queue: u16, vector: Option<u16>) {
        let Self {
            watcher,
            limits,
            status,
            frontend,
            calls,
            ..
        } = self;
        // A failure has been reported where people see it.
        let _ = ask(watcher, limits.call, status, frontend, |frontend| {
            let set = frontend.set_vring_call(queue.into(), calls.event(vector));
            set.map_err(Error::request("SET_VRING_CALL"))
        });
    }

    fn notify(&mut self, queue: u16) {
        if let Some(kick) = self.doorbells.kick(queue) {
            // It only fails when the counter is full: then the back end has been told.
            let _ = kick.write(1);
        }
    }

    fn read_config(&mut self, offset: u64, data: &mut [u8]) {
        let Some(config) = self.config() else { return };
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| config.get(offset..));
        for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
            *to = *from;
        }
    }

    /// The back end decides what is writable, and may change other fields in answer (input's
    /// `select` does): the config space is read again.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Some(size) = self.config().map(<[u8]>::len) else {
            return;
        };
        let inside = offset
            .checked_add(data.len() as u64)
            .is_some_and(|end| end <= size as u64);
        let (true, Ok(offset), Ok(size)) = (inside, u32::try_from(offset), u32::try_from(size))
        else {
            return;
        };
        let config = self.ask(|frontend| {
            let set = frontend.set_config(offset, VhostUserConfigFlags::WRITABLE, data);
            set.map_err(Error::request("SET_CONFIG"))?;
            handshake::read_config(frontend, size)
        });
        if let Ok(config) = config {
            self.config = Some(config);
        }
    }

    fn reset(&mut self) {
        self.doorbells.take_down();
        if self.active.is_empty() {
            return;
        }
        if let Some(offer) = self.offer() {
            // A failure has been reported; then the connection is closed.
            let _ = self.stop(&offer);
        }
        self.active.clear();
    }

    fn is_ram(&self, address: u64, len: u64) -> bool {
        self.memory.host_address(address, len).is_some()
    }
}

impl<H: Host> Drop for VhostUser<H> {
    fn drop(&mut self) {
        self.status.close();
    }
}

/// Calls the back end under a time limit.
fn ask<T>(
    watcher: &Watcher,
    limit: Duration,
    status: &Status,
    frontend: &mut Frontend,
    call: impl FnOnce(&mut Frontend) -> Result<T, Error>,
) -> Result<T, BackendError> {
    watcher.within(limit, || call(frontend)).map_err(|error| {
        status.fail(&error);
        BackendError
    })
}
