//! The watcher: a thread that notices when a device process goes away or does not answer in time.
//!
//! The front end's calls wait without limit. A caller therefore notes a deadline first; when it
//! passes, the watcher declares the device failed, which shuts the connection down and so ends
//! the call.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Error;
use super::status::Status;

/// Ends the connection to a device from where nothing may be waited for; the watcher does the rest.
pub(super) struct Breaker {
    /// A second handle to the connection of now.
    stream: Mutex<UnixStream>,
    reason: OnceLock<Error>,
}

impl Breaker {
    /// `stream` is a second handle to the connection.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream: Mutex::new(stream),
            reason: OnceLock::new(),
        }
    }

    /// The device has failed, whatever its back end. The first reason counts.
    pub(super) fn trip(&self, reason: Error) {
        let _ = self.reason.set(reason);
        self.cut();
    }

    /// Why the device has failed, whatever its back end.
    pub(super) fn reason(&self) -> Option<&Error> {
        self.reason.get()
    }

    /// Ends the connection.
    pub(super) fn cut(&self) {
        // An error means that it is closed already.
        let _ = self.lock().shutdown(Shutdown::Both);
    }

    /// Ends the connection; from now on this is about another.
    pub(super) fn watch_over(&self, stream: UnixStream) {
        let mut current = self.lock();
        let _ = current.shutdown(Shutdown::Both);
        *current = stream;
        if self.reason.get().is_some() {
            let _ = current.shutdown(Shutdown::Both);
        }
    }

    fn lock(&self) -> MutexGuard<'_, UnixStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches one connection until it is dropped.
pub(super) struct Watcher(Arc<Shared>);

struct Shared {
    orders: Mutex<Orders>,
    /// Signalled when the orders change.
    wake: EventFd,
}

#[derive(Clone, Copy, Default)]
struct Orders {
    deadline: Option<(Instant, Duration)>,
    stop: bool,
}

/// What ends a watch.
enum End {
    HungUp,
    TimedOut(Duration),
    Stopped,
}

impl Watcher {
    /// Begins to watch the connection to the back end of this life, of which `stream` is a second
    /// handle.
    pub(super) fn start(stream: UnixStream, life: u32, status: Arc<Status>) -> Result<Self, Error> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = wake.map_err(|errno| Error::Event(errno.into()))?;
        let shared = Arc::new(Shared {
            orders: Mutex::default(),
            wake,
        });
        let watched = Arc::clone(&shared);
        thread::Builder::new()
            .name("device-watch".into())
            .spawn(move || match watched.watch(&stream) {
                End::HungUp => status.fail(life, &Error::HungUp),
                End::TimedOut(limit) => status.fail(life, &Error::TimedOut(limit)),
                End::Stopped => {}
            })
            .map_err(Error::Thread)?;
        Ok(Self(shared))
    }

    /// Runs `call`, which has until `limit` from now.
    pub(super) fn within<T>(&self, limit: Duration, call: impl FnOnce() -> T) -> T {
        let deadline = Instant::now().checked_add(limit).map(|at| (at, limit));
        self.0.order(|orders| orders.deadline = deadline);
        let result = call();
        self.0.order(|orders| orders.deadline = None);
        result
    }
}

impl Drop for Watcher {
    /// The thread may be the one that drops this, so nobody waits for its end.
    fn drop(&mut self) {
        self.0.order(|orders| orders.stop = true);
    }
}

impl Shared {
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        // It only fails when the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
    }

    fn watch(&self, stream: &UnixStream) -> End {
        loop {
            let orders = *self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            if orders.stop {
                return End::Stopped;
            }
            let left = orders
                .deadline
                .map(|(at, limit)| (at.checked_duration_since(Instant::now()), limit));
            let timeout = match left {
                None => PollTimeout::NONE,
                Some((None, limit)) => return End::TimedOut(limit),
                Some((Some(left), _)) => round_up(left),
            };
            // POLLHUP is always reported; a back end may write whenever it likes.
            let mut fds = [
                PollFd::new(stream.as_fd(), PollFlags::empty()),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            ];
            // An error is EINTR or a shortage of memory: look again.
            if poll(&mut fds, timeout).is_err() {
                continue;
            }
            let [connection, wake] = &fds;
            if connection.any().unwrap_or(true) {
                return End::HungUp;
            }
            if wake.any().unwrap_or(true) {
                let _ = self.wake.read();
            }
        }
    }
}

/// Whole milliseconds, so that the deadline has passed when the time is over.
fn round_up(left: Duration) -> PollTimeout {
    let milliseconds = left.as_millis().saturating_add(1);
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}
