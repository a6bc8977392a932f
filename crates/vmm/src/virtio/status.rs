//! Whether a device process is there, shared between the threads that find out.

use std::error::Error as StdError;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pci::virtio::Interrupts;
use wire::vmm::{Device, Event};

use super::Error;
use super::connection::Connection;
use super::handshake::Offer;
use super::watch::Breaker;

/// Takes what the supervisor is to hear. Called from any thread: at most once for each back end
/// that is lost, and once for the device's end.
pub type Report = Box<dyn Fn(Event) + Send + Sync>;

/// What there is of a back end.
enum Phase {
    /// It is being made acquainted with the device.
    Starting,
    /// It works.
    Ready(Arc<Connection>),
    /// It is gone, and the device waits for the next.
    Lost,
    /// The device is no more.
    Failed,
    /// The VMM is done with the device: whatever happens now is no failure.
    Closed,
}

struct State {
    phase: Phase,
    /// Which back end it is.
    life: u32,
    /// What the guest was offered by the first back end, and every other one has to offer as well.
    offer: Option<Arc<Offer>>,
}

/// The life of a device as its front end sees it.
pub(super) struct Status {
    name: String,
    replaceable: bool,
    state: Mutex<State>,
    changed: Condvar,
    /// Ends every call that waits on the connection.
    breaker: Arc<Breaker>,
    interrupts: Arc<Interrupts>,
    report: Report,
}

/// The device has failed for good, or the VMM is done with it.
#[derive(Debug)]
pub(super) struct Over;

impl Status {
    pub(super) fn new(
        device: &Device,
        breaker: Arc<Breaker>,
        interrupts: Arc<Interrupts>,
        report: Report,
    ) -> Self {
        Self {
            name: device.name.clone(),
            replaceable: device.replaceable,
            state: Mutex::new(State {
                phase: Phase::Starting,
                life: 0,
                offer: None,
            }),
            changed: Condvar::new(),
            breaker,
            interrupts,
            report,
        }
    }

    /// The back end can be asked from now on, unless it failed meanwhile or another takes its place.
    pub(super) fn ready(&self, connection: Connection) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Starting) && state.life == connection.life {
            let offer = Arc::clone(&connection.offer);
            state.offer.get_or_insert(offer);
            state.phase = Phase::Ready(Arc::new(connection));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The back end of this life has failed: its connection is closed. If another may take its
    /// place the device waits for that; otherwise it has failed for good, and the guest is told. The
    /// first reason counts, and is reported.
    pub(super) fn fail(&self, life: u32, reason: &Error) {
        // What the hypervisor refuses it will refuse for the next one as well.
        match self.breaker.reason() {
            Some(reason) => self.give_up(reason),
            None if self.replaceable => self.lose(life, reason),
            None => self.give_up(reason),
        }
    }

    /// The device has failed, whoever serves it.
    pub(super) fn give_up(&self, reason: &dyn StdError) {
        if self.end(Phase::Failed) {
            self.interrupts.needs_reset();
            let (name, reason) = (self.name.clone(), wire::chain(reason));
            (self.report)(Event::DeviceFailed { name, reason });
        }
    }

    fn lose(&self, life: u32, reason: &Error) {
        let mut state = self.lock();
        let lost = matches!(state.phase, Phase::Starting | Phase::Ready(_)) && state.life == life;
        let before = lost.then(|| std::mem::replace(&mut state.phase, Phase::Lost));
        if lost {
            self.breaker.cut();
        }
        drop(state);
        if before.is_some() {
            let (name, reason) = (self.name.clone(), wire::chain(reason));
            (self.report)(Event::DeviceLost { name, life, reason });
        }
    }

    pub(super) const fn is_replaceable(&self) -> bool {
        self.replaceable
    }

    /// From now on `stream` leads to the back end, which is the one of this life. `false` if the
    /// device takes none any more.
    pub(super) fn begin(&self, stream: UnixStream, life: u32) -> bool {
        let mut state = self.lock();
        if !self.replaceable || matches!(state.phase, Phase::Failed | Phase::Closed) {
            return false;
        }
        let before = std::mem::replace(&mut state.phase, Phase::Starting);
        state.life = life;
        self.breaker.watch_over(stream);
        drop(state);
        drop(before);
        true
    }

    /// The VMM is done with the device.
    pub(super) fn close(&self) {
        self.end(Phase::Closed);
    }

    /// What the guest is offered, while the device lives. Waits for the first handshake, at most
    /// until `limit`.
    pub(super) fn wait(&self, limit: Instant) -> Option<Arc<Offer>> {
        let mut state = self.lock();
        loop {
            if matches!(state.phase, Phase::Failed | Phase::Closed) {
                return None;
            }
            if let Some(offer) = &state.offer {
                return Some(Arc::clone(offer));
            }
            let left = limit.checked_duration_since(Instant::now())?;
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What the guest is offered, if that is known.
    pub(super) fn offer(&self) -> Option<Arc<Offer>> {
        self.lock().offer.clone()
    }

    /// The back end that can be asked now; none while the device waits for one.
    ///
    /// # Errors
    /// [`Over`].
    pub(super) fn connection(&self) -> Result<Option<Arc<Connection>>, Over> {
        match &self.lock().phase {
            Phase::Ready(connection) => Ok(Some(Arc::clone(connection))),
            Phase::Starting | Phase::Lost => Ok(None),
            Phase::Failed | Phase::Closed => Err(Over),
        }
    }

    fn end(&self, end: Phase) -> bool {
        let mut state = self.lock();
        let over = matches!(state.phase, Phase::Failed | Phase::Closed);
        let before = (!over).then(|| std::mem::replace(&mut state.phase, end));
        self.breaker.cut();
        drop(state);
        self.changed.notify_all();
        before.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
