//! A real back end: a device with the id of a vsock, which answers a request with its bytes
//! inverted.

use std::io::Result;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28 | 1;

pub(crate) struct Echo {
    memory: Option<GuestMemoryAtomic<GuestMemoryMmap>>,
    pub(crate) accepted: u64,
    pub(crate) resets: u32,
    pub(crate) config: [u8; 8],
    exit: (EventConsumer, EventNotifier),
}

impl VhostUserBackendMut for Echo {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }
    fn max_queue_size(&self) -> usize {
        256
    }
    fn features(&self) -> u64 {
        // Packed rings and LOG_ALL are offered too; no guest may see them.
        FEATURES | 1 << 34 | 1 << 26
    }
    fn acked_features(&mut self, features: u64) {
        self.accepted = features;
    }
    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::REPLY_ACK
    }
    fn reset_device(&mut self) {
        self.resets += 1;
    }
    fn set_event_idx(&mut self, _enabled: bool) {}
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let (offset, size) = (offset as usize, size as usize);
        self.config
            .get(offset..offset + size)
            .unwrap_or_default()
            .to_vec()
    }
    fn set_config(&mut self, offset: u32, data: &[u8]) -> Result<()> {
        let offset = offset as usize;
        self.config[offset..offset + data.len()].copy_from_slice(data);
        self.config[7] = 0xee;
        Ok(())
    }
    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> Result<()> {
        self.memory = Some(memory);
        Ok(())
    }
    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        Some((
            self.exit.0.try_clone().unwrap(),
            self.exit.1.try_clone().unwrap(),
        ))
    }
    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> Result<()> {
        let memory = self.memory.as_ref().unwrap().memory();
        let vring = &vrings[usize::from(event)];
        loop {
            let next = vring
                .get_mut()
                .get_queue_mut()
                .iter(memory.clone())
                .unwrap()
                .next();
            let Some(chain) = next else { return Ok(()) };
            let head = chain.head_index();
            let descriptors: Vec<_> = chain.collect();
            let (request, answer) = (&descriptors[0], &descriptors[1]);
            let mut bytes = vec![0; request.len() as usize];
            memory.read_slice(&mut bytes, request.addr()).unwrap();
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
            memory.write_slice(&bytes, answer.addr()).unwrap();
            vring.add_used(head, request.len()).unwrap();
            vring.signal_used_queue().unwrap();
        }
    }
}

/// The device, serving one connection until it is dropped.
pub(crate) struct Process {
    pub(crate) device: Arc<Mutex<Echo>>,
    daemon: VhostUserDaemon<Arc<Mutex<Echo>>>,
}

impl Process {
    /// The device and its front end's end of the connection.
    pub(crate) fn start() -> (Self, UnixStream) {
        let exit = new_event_consumer_and_notifier(EventFlag::NONBLOCK).unwrap();
        let device = Echo {
            memory: None,
            accepted: 0,
            resets: 0,
            config: *b"cid-none",
            exit,
        };
        let device = Arc::new(Mutex::new(device));
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new("echo".into(), Arc::clone(&device), memory).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut listener = Listener::new(&path, true).unwrap();
        let socket = UnixStream::connect(&path).unwrap();
        daemon.start(&mut listener).unwrap();
        (Self { device, daemon }, socket)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.daemon.request_shutdown();
        let _ = self.daemon.wait();
        let _ = self.device.lock().unwrap().exit.1.notify();
    }
}
