//! The device: what `vhost-user-backend` asks of it, and its queues, whose requests virtiofsd carries
//! out one after the other.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use ::device::serve::{COMMON_FEATURES, read_config};
use nix::libc::EIO;
use vhost::vhost_user::{Error as VhostUserError, Listener, VhostUserProtocolFeatures as Protocol};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringState, VringT};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::FileSystem;
use virtiofsd::fuse::{InHeader, Opcode, OutHeader};
use virtiofsd::server::Server;
use vm_memory::{
    ByteValued, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use crate::journal::{INIT_SIZE, Journal, QUEUES};
use crate::kept::{Kept, nobody};
use crate::table::Table;
use crate::{Error, replay};

pub(crate) type Mapped = GuestMemoryMmap<BitmapMmapRegion>;
type Memory = GuestMemoryAtomic<Mapped>;
type Vring = VringMutex<Memory>;

/// The longest queue.
const QUEUE_SIZE: usize = 1024;

/// Requests taken from a queue before the other one has its turn.
const TURN: usize = 16;

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
    journal: Journal,
    listener: UnixListener,
    ended: &mpsc::Sender<End>,
) -> Result<(), Error>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let kept = Kept::new(fs, Table::new(journal));
    let backend = Arc::new(Backend {
        server: Server::new(kept.clone()),
        kept,
        memory: memory.clone(),
        is_settled: AtomicBool::new(false),
        config: config_space(tag),
        ended: ended.clone(),
    });
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

/// Whether the driver has started a queue.
fn is_live(vring: &VringState<Memory>) -> bool {
    vring.is_enabled() && vring.get_queue().ready()
}

/// `struct virtio_fs_config` (virtio 1.2, section 5.11.4): the tag and the number of request queues.
fn config_space(tag: &str) -> Vec<u8> {
    let mut space = tag.as_bytes().to_vec();
    space.resize(wire::fs::Config::MAX_TAG, 0);
    space.extend(1_u32.to_le_bytes());
    space
}

struct Backend<F: FileSystem<Inode = u64, Handle = u64> + Send + Sync> {
    server: Server<Kept<F>>,
    /// What the server serves.
    kept: Kept<F>,
    memory: Memory,
    /// It has been decided whether this process goes on where another ended.
    is_settled: AtomicBool,
    config: Vec<u8>,
    ended: mpsc::Sender<End>,
}

impl<F> Backend<F>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    /// Carries out what there is in the queues. Whoever forgets is served first.
    fn serve(&self, vrings: &[Vring]) -> io::Result<()> {
        if !self.settle(vrings)? {
            return Ok(());
        }
        let memory = self.memory.memory();
        for vring in vrings {
            vring.disable_notification().map_err(io::Error::other)?;
        }
        let mut promised = false;
        loop {
            let mut served = false;
            for (queue, vring) in vrings.iter().enumerate() {
                for _ in 0..TURN {
                    if !self.serve_one(queue, vring, &memory)? {
                        break;
                    }
                    served = true;
                }
            }
            if served || self.kept.find_some() {
                promised = false;
                continue;
            }
            // A ring that says that there is something and has nothing would keep us for good.
            if promised {
                return Err(io::Error::other("a head in it is out of range"));
            }
            for vring in vrings {
                promised |= vring.enable_notification().map_err(io::Error::other)?;
            }
            if !promised {
                return Ok(());
            }
        }
    }

    /// Finds out whose requests these are; false if that cannot be known yet.
    fn settle(&self, vrings: &[Vring]) -> io::Result<bool> {
        let mut used = [None; QUEUES];
        for (used, vring) in used.iter_mut().zip(vrings) {
            let state = vring.get_ref();
            *used = is_live(&state).then(|| state.get_queue().next_used());
        }
        let mut table = self.kept.table();
        let follows = table.journal.follows(used);
        if self.is_settled.load(Ordering::Relaxed) {
            if !follows {
                table.restart(used);
            }
            return Ok(true);
        }
        let mut queues = used.iter().enumerate();
        if queues.any(|(queue, used)| used.is_none() && table.journal.was_used(queue)) {
            return Ok(false);
        }
        self.is_settled.store(true, Ordering::Relaxed);
        if !follows {
            table.restart(used);
        } else if let Some(init) = table.resume(used) {
            drop(table);
            replay::replay(&self.server, &init)?;
        }
        Ok(true)
    }

    fn serve_one(
        &self,
        queue: usize,
        vring: &Vring,
        memory: &GuestMemoryLoadGuard<Mapped>,
    ) -> io::Result<bool> {
        let chain = {
            let mut state = vring.get_mut();
            if !is_live(&state) {
                return Ok(false);
            }
            let queue = state.get_queue_mut();
            let mut chains = queue.iter(memory.clone()).map_err(io::Error::other)?;
            chains.next()
        };
        let Some(chain) = chain else {
            return Ok(false);
        };
        let head = chain.head_index();
        let written = self.answer(queue, chain, memory)?;
        {
            let mut state = vring.get_mut();
            state.add_used(head, written).map_err(io::Error::other)?;
            if state.needs_notification().map_err(io::Error::other)? {
                state.signal_used_queue()?;
            }
        }
        let gone = self.kept.table().end();
        for inode in gone {
            self.kept.inner.forget(nobody(), inode, 1);
        }
        Ok(true)
    }

    /// Carries out a request; how many bytes of the answer were written.
    fn answer(
        &self,
        queue: usize,
        chain: DescriptorChain<GuestMemoryLoadGuard<Mapped>>,
        memory: &Mapped,
    ) -> io::Result<u32> {
        let request = Reader::new(memory, chain.clone()).map_err(io::Error::other)?;
        let mut answer = Writer::new(memory, chain).map_err(io::Error::other)?;
        let Ok(header) = request.clone().read_obj::<InHeader>() else {
            return Ok(0);
        };
        self.kept.table().journal.begin(queue, header.unique);
        let handled = self
            .server
            .handle_message(request.clone(), answer.clone(), None::<&mut ()>);
        if header.opcode == Opcode::Init as u32 {
            let mut init = Vec::new();
            request.take(INIT_SIZE as u64).read_to_end(&mut init)?;
            self.kept.table().journal.set_init(&init);
        }
        let written = handled.unwrap_or_else(|_| {
            let refusal = OutHeader {
                len: u32::try_from(size_of::<OutHeader>()).unwrap_or(0),
                error: -EIO,
                unique: header.unique,
            };
            // A request that has no answer has no room for one.
            let written = answer.write_all(refusal.as_slice());
            written.map_or(0, |()| size_of::<OutHeader>())
        });
        u32::try_from(written).map_err(io::Error::other)
    }
}

impl<F> VhostUserBackend for Backend<F>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    type Bitmap = BitmapMmapRegion;
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn protocol_features(&self) -> Protocol {
        Protocol::MQ | Protocol::REPLY_ACK | Protocol::CONFIG | Protocol::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The rings know.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        read_config(&self.config, offset, size)
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        // The same object as ours, which already shows the new table.
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    /// The queue's thread ends after an error, and the process would live on without serving: so
    /// it ends too, and the front end sees its connection close.
    fn handle_event(
        &self,
        device_event: u16,
        _events: EventSet,
        vrings: &[Vring],
        _thread_id: usize,
    ) -> io::Result<()> {
        self.serve(vrings).inspect_err(|error| {
            let cause = io::Error::new(error.kind(), error.to_string());
            let _ = self
                .ended
                .send(End::Failed(Error::Queue(device_event, cause)));
        })
    }
}
