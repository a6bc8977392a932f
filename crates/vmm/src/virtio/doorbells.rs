//! The notifications of a device's queues: an event each, rung by the guest's write without an
//! exit to us.

use std::sync::Arc;

use pci::virtio::NOTIFY_MULTIPLIER;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Error, Host};

/// The kick events of a device, and the doorbells that ring them while the device is active.
pub(super) struct Doorbells<H: Host> {
    host: Arc<H>,
    kicks: Vec<EventFd>,
    rung: Vec<H::Doorbell>,
}

impl<H: Host> Doorbells<H> {
    pub(super) fn new(host: Arc<H>, queues: usize) -> Result<Self, Error> {
        let kicks = (0..queues).map(|_| event()).collect::<Result<_, _>>()?;
        Ok(Self {
            host,
            kicks,
            rung: Vec::new(),
        })
    }

    /// The event of a queue.
    pub(super) fn kick(&self, queue: u16) -> Option<&EventFd> {
        self.kicks.get(usize::from(queue))
    }

    /// Hangs the doorbells of these queues where the notification of queue 0 is at `notify`;
    /// without it, takes them down. Those of before are taken down first.
    pub(super) fn hang(&mut self, queues: &[u16], notify: Option<u64>) -> Result<(), Error> {
        self.rung.clear();
        let Some(notify) = notify else { return Ok(()) };
        for queue in queues {
            let offset = u64::from(*queue).saturating_mul(NOTIFY_MULTIPLIER.into());
            let address = notify.saturating_add(offset);
            let kick = self
                .kicks
                .get(usize::from(*queue))
                .ok_or(Error::NoQueue(*queue))?;
            let doorbell = self.host.doorbell(address, kick);
            self.rung
                .push(doorbell.map_err(|e| Error::Hypervisor("doorbell", Box::new(e)))?);
        }
        Ok(())
    }

    /// Takes the doorbells down, and forgets kicks that no back end has seen: they were meant for
    /// a queue that is no more.
    pub(super) fn take_down(&mut self) {
        self.rung.clear();
        for kick in &self.kicks {
            // It only fails when there was no kick.
            let _ = kick.read();
        }
    }
}

/// A close-on-exec event that never blocks.
pub(super) fn event() -> Result<EventFd, Error> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(Error::Event)
}
