//! What `vhost-user-backend` asks of a device, answered for all of ours.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VringEpollHandler, VringT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::queue::{Queue, QueueState};
use super::vring::Vring;
use super::{Device, Event, Readiness};

/// VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_RING_F_EVENT_IDX, VIRTIO_F_VERSION_1 (virtio 1.2, section
/// 6) and VHOST_USER_F_PROTOCOL_FEATURES.
pub const COMMON_FEATURES: u64 = (1 << 28) | (1 << 29) | (1 << 32) | (1 << 30);

type Handler<D> = VringEpollHandler<Arc<Backend<D>>>;

/// Adds (true) or removes (false) a descriptor with its token.
type Register = dyn Fn(BorrowedFd<'_>, u16, bool) -> io::Result<()> + Send;

/// Adds file descriptors to the loop that calls the device.
pub struct Sources {
    register: Box<Register>,
}

impl Sources {
    /// Watches `fd`, edge-triggered, for everything: the device is called with
    /// [`Event::Source`]`(token)` each time its readiness changes.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u16) -> io::Result<()> {
        (self.register)(fd, token, true)
    }

    /// Stops watching `fd`. Needed before closing it, as others may hold the same description.
    pub fn remove(&self, fd: BorrowedFd<'_>, token: u16) {
        // It fails only for a descriptor that was never added.
        let _ = (self.register)(fd, token, false);
    }
}

struct Inner<D> {
    device: D,
    queues: Vec<QueueState>,
    /// The driver stopped these queues; they begin anew when they are ready again.
    stopped: Vec<bool>,
}

pub(super) struct Backend<D> {
    inner: Mutex<Inner<D>>,
    /// Makes the loop call the device again.
    again: EventFd,
    memory: GuestMemoryAtomic<GuestMemoryMmap<()>>,
    config: Vec<u8>,
    features: u64,
    queue_sizes: Vec<u16>,
}

impl<D: Device> Backend<D> {
    pub(super) fn new(
        device: D,
        memory: GuestMemoryAtomic<GuestMemoryMmap<()>>,
    ) -> io::Result<Self> {
        let queue_sizes = device.queue_sizes();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            again: EventFd::from_value_and_flags(0, flags)?,
            config: device.config(),
            features: device.features() | COMMON_FEATURES,
            memory,
            inner: Mutex::new(Inner {
                queues: queue_sizes.iter().map(|_| QueueState::default()).collect(),
                stopped: vec![true; queue_sizes.len()],
                device,
            }),
            queue_sizes,
        })
    }

    /// Lets the device add sources to `handler`'s loop.
    pub(super) fn attach(&self, handler: &Arc<Handler<D>>) -> io::Result<()> {
        let again = u64::from(self.again_token());
        let edges = EventSet::IN | EventSet::EDGE_TRIGGERED;
        handler.register_listener(self.again.as_raw_fd(), edges, again)?;
        let handler: Weak<Handler<D>> = Arc::downgrade(handler);
        let first = self.again_token().saturating_add(1);
        let register = move |fd: BorrowedFd<'_>, token: u16, add: bool| {
            let handler = handler.upgrade().ok_or(io::ErrorKind::BrokenPipe)?;
            let data = u64::from(token).saturating_add(u64::from(first));
            let events =
                EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
            if add {
                handler.register_listener(fd.as_raw_fd(), events, data)
            } else {
                handler.unregister_listener(fd.as_raw_fd(), events, data)
            }
        };
        self.lock().device.attach(Sources {
            register: Box::new(register),
        })
    }

    /// Tokens up to the number of queues are the loop's own; those after this one the device's.
    fn again_token(&self) -> u16 {
        u16::try_from(self.queue_sizes.len())
            .unwrap_or(u16::MAX)
            .saturating_add(1)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<D>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, event: Event, vrings: &[Vring]) {
        let inner = &mut *self.lock();
        let memory = self.memory.memory();
        let mut queues: Vec<Queue<'_>> = vrings
            .iter()
            .zip(&mut inner.queues)
            .map(|(vring, state)| Queue::new(vring.get_mut(), memory.clone(), state))
            .collect();
        // A driver starts its queues one after the other, and may use the first before the last is
        // started: only the first start after all were stopped can be a new driver's.
        let at_rest = inner.stopped.iter().all(|stopped| *stopped);
        let mut anew = None;
        for (queue, stopped) in queues.iter_mut().zip(&mut inner.stopped) {
            if *stopped && queue.is_ready() {
                *stopped = false;
                let from_zero = queue.restart();
                anew.get_or_insert(from_zero);
            }
        }
        if at_rest && anew == Some(true) {
            inner.device.reset();
        }
        let unfinished = inner.device.process(event, &mut queues);
        for queue in &mut queues {
            queue.notify();
        }
        if unfinished {
            // Each write is an edge, whether it was read or not.
            let _ = self.again.write(1);
        }
    }
}

impl<D: Device> VhostUserBackend for Backend<D> {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.queue_sizes.len()
    }

    fn max_queue_size(&self) -> usize {
        usize::from(self.queue_sizes.iter().copied().max().unwrap_or(0))
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn acked_features(&self, features: u64) {
        self.lock().device.negotiated(features);
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The rings know: Queue asks them.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        read_config(&self.config, offset, size)
    }

    fn set_config(&self, _offset: u32, _buf: &[u8]) -> io::Result<()> {
        Err(io::Error::other("the configuration space is read-only"))
    }

    fn update_memory(&self, _memory: GuestMemoryAtomic<GuestMemoryMmap<()>>) -> io::Result<()> {
        // The same object as ours, which already shows the new table.
        Ok(())
    }

    fn stop_vring(&self, queue_index: u32) -> io::Result<()> {
        let index = usize::try_from(queue_index).unwrap_or(usize::MAX);
        if let Some(stopped) = self.lock().stopped.get_mut(index) {
            *stopped = true;
        }
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(
        &self,
        device_event: u16,
        readiness: EventSet,
        vrings: &[Vring],
        _thread_id: usize,
    ) -> io::Result<()> {
        let event = match device_event.checked_sub(self.again_token()) {
            None => Event::Queue(device_event.into()),
            Some(0) => Event::Again,
            Some(token) => Event::Source(token.saturating_sub(1), Readiness::from(readiness)),
        };
        self.call(event, vrings);
        Ok(())
    }
}

/// `size` bytes of a configuration space from `offset` on. Bytes behind its end read as zero;
/// `vhost-user-backend` caps `size`.
#[must_use]
pub fn read_config(space: &[u8], offset: u32, size: u32) -> Vec<u8> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let size = usize::try_from(size).unwrap_or(0);
    let mut bytes: Vec<u8> = space.iter().skip(start).take(size).copied().collect();
    bytes.resize(size, 0);
    bytes
}

impl From<EventSet> for Readiness {
    fn from(events: EventSet) -> Self {
        let gone = EventSet::HANG_UP | EventSet::ERROR;
        Self {
            readable: events.intersects(EventSet::IN | EventSet::READ_HANG_UP | gone),
            writable: events.intersects(EventSet::OUT | gone),
            ending: events.intersects(EventSet::READ_HANG_UP | gone),
            gone: events.intersects(gone),
        }
    }
}
