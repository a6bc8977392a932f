//! The notifications of a device's queues: an event each, rung by the guest's write without an
//! exit to us.

use std::sync::Arc;

use pci::virtio::NOTIFY_MULTIPLIER;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Error, Host};

/// The doorbells that ring a device's kick events while it is active.
pub(super) struct Doorbells<H: Host> {
    host: Arc<H>,
    rung: Vec<H::Doorbell>,
}

impl<H: Host> Doorbells<H> {
    pub(super) const fn new(host: Arc<H>) -> Self {
        Self {
            host,
            rung: Vec::new(),
        }
    }

    /// Hangs the doorbells of these queues, for these of `kicks`, where the notification of queue 0
    /// is at `notify`; without it, takes them down. Those of before are taken down first.
    pub(super) fn hang(
        &mut self,
        kicks: &[EventFd],
        queues: &[u16],
        notify: Option<u64>,
    ) -> Result<(), Error> {
        self.rung.clear();
        let Some(notify) = notify else { return Ok(()) };
        for queue in queues {
            let offset = u64::from(*queue).saturating_mul(NOTIFY_MULTIPLIER.into());
            let address = notify.saturating_add(offset);
            let kick = kicks
                .get(usize::from(*queue))
                .ok_or(Error::NoQueue(*queue))?;
            let doorbell = self.host.doorbell(address, kick);
            self.rung
                .push(doorbell.map_err(|e| Error::Hypervisor("doorbell", Box::new(e)))?);
        }
        Ok(())
    }

    /// Takes the doorbells down.
    pub(super) fn take_down(&mut self) {
        self.rung.clear();
    }
}

/// A close-on-exec event that never blocks.
pub(super) fn event() -> Result<EventFd, Error> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(Error::Event)
}
