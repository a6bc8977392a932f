//! Whether a device process is there, shared between the threads that find out.

use std::error::Error as StdError;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pci::virtio::Interrupts;
use wire::vmm::Event;

use super::handshake::Offer;

/// Takes what the supervisor is to hear. Called from any thread, at most once a device.
pub type Report = Box<dyn Fn(Event) + Send + Sync>;

enum Phase {
    Starting,
    Ready(Arc<Offer>),
    Failed,
    /// The VMM is done with the device: whatever happens now is no failure.
    Closed,
}

/// The life of one device process as its front end sees it.
pub(super) struct Status {
    name: String,
    phase: Mutex<Phase>,
    changed: Condvar,
    /// A second handle to the connection: shutting it down ends every call that waits on it.
    stream: UnixStream,
    interrupts: Arc<Interrupts>,
    report: Report,
}

impl Status {
    pub(super) fn new(
        name: String,
        stream: UnixStream,
        interrupts: Arc<Interrupts>,
        report: Report,
    ) -> Self {
        let (phase, changed) = (Mutex::new(Phase::Starting), Condvar::new());
        Self {
            name,
            phase,
            changed,
            stream,
            interrupts,
            report,
        }
    }

    /// The handshake is done, unless the device failed meanwhile.
    pub(super) fn ready(&self, offer: Offer) {
        let mut phase = self.lock();
        if matches!(*phase, Phase::Starting) {
            *phase = Phase::Ready(Arc::new(offer));
        }
        drop(phase);
        self.changed.notify_all();
    }

    /// The device failed for good. The first reason counts: it is reported, the connection is
    /// closed, and the guest is told.
    pub(super) fn fail(&self, reason: &dyn StdError) {
        if self.end(Phase::Failed) {
            self.interrupts.needs_reset();
            let (name, reason) = (self.name.clone(), wire::chain(reason));
            (self.report)(Event::DeviceFailed { name, reason });
        }
    }

    /// The VMM is done with the device.
    pub(super) fn close(&self) {
        self.end(Phase::Closed);
    }

    /// The offer while the device lives. Waits for the handshake, at most until `limit`.
    pub(super) fn wait(&self, limit: Instant) -> Option<Arc<Offer>> {
        let mut phase = self.lock();
        loop {
            match &*phase {
                Phase::Ready(offer) => return Some(Arc::clone(offer)),
                Phase::Failed | Phase::Closed => return None,
                Phase::Starting => {}
            }
            let left = limit.checked_duration_since(Instant::now())?;
            let waited = self.changed.wait_timeout(phase, left);
            phase = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn end(&self, end: Phase) -> bool {
        let mut phase = self.lock();
        let first = matches!(*phase, Phase::Starting | Phase::Ready(_));
        if first {
            *phase = end;
        }
        drop(phase);
        self.changed.notify_all();
        // An error means that the connection is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        first
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
