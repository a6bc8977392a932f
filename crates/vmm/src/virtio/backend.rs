//! A virtio device whose work is done by a vhost-user back end in another process.

use std::sync::Arc;
use std::time::Instant;

use pci::virtio::{Activation, BackendError, VirtioBackend};

use super::doorbells::Doorbells;
use super::handshake::Offer;
use super::host::Host;
use super::link::Link;

/// The front end of one device.
pub struct VhostUser<H: Host> {
    pub(super) link: Arc<Link>,
    pub(super) doorbells: Doorbells<H>,
    /// When a vCPU stops to wait for the handshake.
    pub(super) patience: Instant,
    /// The config space as last read; none before the handshake's has been taken over.
    pub(super) config: Option<Vec<u8>>,
}

impl<H: Host> VhostUser<H> {
    /// What the back end offered, once it has; none if it failed.
    fn offer(&self) -> Option<Arc<Offer>> {
        self.link.offer(self.patience)
    }

    fn hang_doorbells(&mut self, notify: Option<u64>) -> Result<(), BackendError> {
        let Self {
            link, doorbells, ..
        } = self;
        let hung = doorbells.hang(&link.kicks, &link.active(), notify);
        hung.map_err(|error| {
            link.status.give_up(&error);
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
        let offer = self.offer();
        offer.is_some_and(|offer| self.link.accept(features & offer.features).is_ok())
    }

    fn activate(&mut self, activation: &Activation) -> Result<(), BackendError> {
        self.offer().ok_or(BackendError)?;
        self.link.activate(&activation.queues)?;
        self.hang_doorbells(activation.notify)
    }

    fn move_notify(&mut self, address: Option<u64>) {
        // A failure has been reported where people see it.
        let _ = self.hang_doorbells(address);
    }

    fn set_vector(&mut self, queue: u16, vector: Option<u16>) {
        self.link.set_vector(queue, vector);
    }

    fn notify(&mut self, queue: u16) {
        if let Some(kick) = self.link.kicks.get(usize::from(queue)) {
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
        if let Some(config) = self.link.write_config(offset, data, size) {
            self.config = Some(config);
        }
    }

    fn reset(&mut self) {
        self.doorbells.take_down();
        self.link.reset();
    }

    fn is_ram(&self, address: u64, len: u64) -> bool {
        self.link.memory.host_address(address, len).is_some()
    }
}

impl<H: Host> Drop for VhostUser<H> {
    fn drop(&mut self) {
        self.link.status.close();
    }
}
