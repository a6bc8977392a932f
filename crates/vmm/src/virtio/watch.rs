//! The watcher: a thread that notices when a device process goes away or does not answer in time.
//!
//! The front end's calls wait without limit. A caller therefore notes a deadline first; when it
//! passes, the watcher declares the device failed, which shuts the connection down and so ends
//! the call.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Error;
use super::status::Status;

/// Ends a connection from where nothing may be waited for; the watcher does the rest.
pub(super) struct Breaker {
    stream: UnixStream,
    reason: OnceLock<Error>,
}

impl Breaker {
    /// `stream` is a second handle to the connection.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            reason: OnceLock::new(),
        }
    }

    /// The device has failed. The first reason counts.
    pub(super) fn trip(&self, reason: Error) {
        let _ = self.reason.set(reason);
        // An error means that the connection is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Watches one connection until it is dropped.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

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
    /// Begins to watch the breaker's connection.
    pub(super) fn start(breaker: Arc<Breaker>, status: Arc<Status>) -> Result<Self, Error> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = wake.map_err(|errno| Error::Event(errno.into()))?;
        let shared = Arc::new(Shared {
            orders: Mutex::default(),
            wake,
        });
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("device-watch".into())
            .spawn(move || match watched.watch(&breaker.stream) {
                End::HungUp => status.fail(breaker.reason.get().unwrap_or(&Error::HungUp)),
                End::TimedOut(limit) => status.fail(&Error::TimedOut(limit)),
                End::Stopped => {}
            })
            .map_err(Error::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Runs `call`, which has until `limit` from now.
    pub(super) fn within<T>(&self, limit: Duration, call: impl FnOnce() -> T) -> T {
        let deadline = Instant::now().checked_add(limit).map(|at| (at, limit));
        self.shared.order(|orders| orders.deadline = deadline);
        let result = call();
        self.shared.order(|orders| orders.deadline = None);
        result
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.order(|orders| orders.stop = true);
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked, and then it is over too.
            let _ = thread.join();
        }
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
