//! The device: virtiofsd's vhost-user back end, wrapped so that it ends when it cannot go on.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, mpsc};
use std::thread;

use vhost::vhost_user::{Error as VhostUserError, Listener, VhostUserProtocolFeatures as Protocol};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::vhost_user::{VhostUserFsBackend, VhostUserFsBackendBuilder};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

use crate::Error;

type Memory = GuestMemoryAtomic<GuestMemoryMmap<BitmapMmapRegion>>;

/// Why the device stops.
pub(crate) enum End {
    /// The front end closed its connection.
    FrontEndGone,
    /// The supervisor closed the control channel.
    Released,
    /// It cannot go on.
    Failed(Error),
}

/// Serves the front end that is queued on `listener` with `fs`, in threads of its own, and
/// reports to `ended`. The threads end with the process.
pub(crate) fn start<F>(
    fs: F,
    tag: &str,
    threads: u8,
    listener: UnixListener,
    ended: &mpsc::Sender<End>,
) -> Result<(), Error>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let inner = VhostUserFsBackendBuilder::default()
        .set_thread_pool_size(usize::from(threads))
        .set_tag(Some(tag.to_owned()))
        .build(fs)
        .map_err(Error::Device)?;
    let backend = Arc::new(Backend {
        inner,
        ended: ended.clone(),
    });
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon =
        VhostUserDaemon::new("vhost-user".to_owned(), backend, memory).map_err(Error::VhostUser)?;
    let ended = ended.clone();
    thread::Builder::new()
        .name("front-end".to_owned())
        .spawn(move || {
            let result = daemon
                .start(&mut Listener::from(listener))
                .and_then(|()| daemon.wait());
            let _ = ended.send(end_of(result));
            // Dropping the daemon waits for its queue threads, which may be inside a request; the
            // process is about to end and takes them along.
            std::mem::forget(daemon);
        })
        .map_err(Error::Thread)?;
    Ok(())
}

fn end_of(result: Result<(), vhost_user_backend::Error>) -> End {
    match result {
        Ok(())
        | Err(vhost_user_backend::Error::HandleRequest(
            VhostUserError::Disconnected | VhostUserError::PartialMessage,
        )) => End::FrontEndGone,
        Err(error) => End::Failed(Error::VhostUser(error)),
    }
}

/// virtiofsd's back end. What it does not do on its own: end when a queue can no longer be served,
/// and keep to the protocol features that we use.
struct Backend<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> {
    inner: VhostUserFsBackend<F>,
    ended: mpsc::Sender<End>,
}

impl<F> VhostUserBackend for Backend<F>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    type Bitmap = BitmapMmapRegion;
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        self.inner.num_queues()
    }

    fn max_queue_size(&self) -> usize {
        self.inner.max_queue_size()
    }

    fn features(&self) -> u64 {
        self.inner.features()
    }

    /// What virtiofsd offers less what no front end of ours uses: a second socket back to the
    /// front end, and loading state that somebody else wrote.
    fn protocol_features(&self) -> Protocol {
        self.inner.protocol_features()
            & (Protocol::MQ
                | Protocol::REPLY_ACK
                | Protocol::CONFIG
                | Protocol::CONFIGURE_MEM_SLOTS
                | Protocol::LOG_SHMFD
                | Protocol::RESET_DEVICE)
    }

    fn reset_device(&self) {
        self.inner.reset_device();
    }

    fn set_event_idx(&self, enabled: bool) {
        self.inner.set_event_idx(enabled);
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.inner.get_config(offset, size)
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        self.inner.update_memory(memory)
    }

    fn exit_event(&self, thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.inner.exit_event(thread_index)
    }

    /// The queue's thread ends after an error, and the process would live on without serving: so
    /// it ends too, and the front end sees its connection close.
    fn handle_event(
        &self,
        device_event: u16,
        events: EventSet,
        vrings: &[Self::Vring],
        thread_id: usize,
    ) -> io::Result<()> {
        let result = self
            .inner
            .handle_event(device_event, events, vrings, thread_id);
        result.inspect_err(|error| {
            let cause = io::Error::new(error.kind(), error.to_string());
            let _ = self
                .ended
                .send(End::Failed(Error::Queue(device_event, cause)));
        })
    }
}
