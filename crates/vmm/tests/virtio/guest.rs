//! A guest's driver, in front of one device.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use pci::PciFunction;
use pci::virtio::{NOTIFY_OFFSET, VirtioPci};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm::virtio::{Limits, Replacement, Report, VhostUser, vhost_user_device};
use wire::vmm::{Device, Event};

use crate::host::FakeHost;

pub(crate) const BAR: u64 = 0x40_0000_0000;
/// RAM is 1 MiB from 0 on, and 1 MiB from 4 GiB on.
pub(crate) const HIGH: u64 = 4 << 30;
const MIB: usize = 1 << 20;

pub(crate) struct Guest {
    pub(crate) function: VirtioPci<VhostUser<FakeHost>>,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) events: Receiver<Event>,
    pub(crate) replacement: Arc<Replacement>,
    next: [u16; 2],
}

pub(crate) fn memory() -> GuestMemoryMmap {
    let name = CString::new("guest").unwrap();
    let file = File::from(memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(2 * MIB as u64).unwrap();
    let file = Arc::new(file);
    let ranges = [(0, 0), (HIGH, MIB as u64)].map(|(address, offset)| {
        (
            GuestAddress(address),
            MIB,
            Some(FileOffset::from_arc(Arc::clone(&file), offset)),
        )
    });
    GuestMemoryMmap::from_ranges_with_files(ranges).unwrap()
}

impl Guest {
    pub(crate) fn new(socket: UnixStream, limit: Duration) -> Self {
        Self::with_queues(socket, limit, vec![256, 128])
    }

    pub(crate) fn with_queues(socket: UnixStream, limit: Duration, queues: Vec<u16>) -> Self {
        Self::with(socket, limit, queues, false)
    }

    /// In front of a device that may get other back ends.
    pub(crate) fn replaceable(socket: UnixStream, limit: Duration) -> Self {
        Self::with(socket, limit, vec![256, 128], true)
    }

    fn with(socket: UnixStream, limit: Duration, queues: Vec<u16>, replaceable: bool) -> Self {
        let device = Device {
            name: "echo".into(),
            resource: "echo".into(),
            virtio_id: 19,
            queues,
            config_space: None,
            replaceable,
        };
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let report: Report = Box::new(move |event| {
            // A test that is over does not listen any more.
            let _ = sender.lock().unwrap().send(event);
        });
        let (host, memory) = (Arc::new(FakeHost::default()), memory());
        let limits = Limits {
            handshake: limit,
            call: limit,
        };
        let (mut function, replacement) =
            vhost_user_device(&device, socket, &memory, &host, limits, report).unwrap();
        function.assign_bar(0, BAR);
        let mut guest = Self {
            function,
            host,
            memory,
            events,
            replacement: Arc::new(replacement),
            next: [0; 2],
        };
        guest.enable();
        guest
    }

    /// Memory decoding and MSI-X on; vector `n` sends 0x40 + n.
    fn enable(&mut self) {
        self.function.write_config(4, &[6, 0]);
        for vector in 0..3 {
            self.write(0x4000 + vector * 16, &0xfee0_0000u64.to_le_bytes());
            self.write(0x4008 + vector * 16, &(0x40 + vector).to_le_bytes());
        }
        self.function.write_config(0x42, &[2, 0x80]);
    }

    pub(crate) fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.function.read_bar(0, offset, &mut data);
        data
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.function.write_bar(0, offset, data);
    }

    pub(crate) fn status(&mut self) -> u8 {
        self.read::<1>(0x14)[0]
    }

    pub(crate) fn set_status(&mut self, status: u8) {
        self.write(0x14, &[status]);
    }

    pub(crate) fn features(&mut self) -> u64 {
        let mut half = |select: u32| {
            self.write(0x00, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(self.read(0x04)))
        };
        half(0) | half(1) << 32
    }

    /// Up to FEATURES_OK; `false` if the device refuses.
    pub(crate) fn negotiate(&mut self, features: u64) -> bool {
        for status in [0, 1, 3] {
            self.set_status(status);
        }
        for (select, half) in [(0u32, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(0x08, &select.to_le_bytes());
            self.write(0x0c, &half.to_le_bytes()[..4]);
        }
        self.set_status(0xb);
        self.status() & 8 != 0
    }

    /// Sets up a queue of 16 entries with vector `index + 1`.
    pub(crate) fn queue(&mut self, index: u16, base: u64) {
        self.write(0x16, &index.to_le_bytes());
        self.write(0x18, &16u16.to_le_bytes());
        self.write(0x1a, &(index + 1).to_le_bytes());
        for (register, offset) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
            self.write(register, &base.wrapping_add(offset).to_le_bytes());
        }
        self.write(0x1c, &1u16.to_le_bytes());
    }

    /// All the way: queue 0 at 0x1_0000, queue 1 above 4 GiB.
    pub(crate) fn bring_up(&mut self) {
        assert!(self.negotiate(1 << 32));
        self.write(0x10, &0u16.to_le_bytes());
        self.queue(0, 0x1_0000);
        self.queue(1, HIGH);
        self.next = [0; 2];
        for base in [0x1_0000, HIGH] {
            self.memory
                .write_slice(&[0; 0x3000], GuestAddress(base))
                .unwrap();
        }
        self.set_status(0xf);
    }

    /// Puts a request into a queue's ring and tells nobody.
    pub(crate) fn offer(&mut self, queue: u16, request: &[u8]) {
        let base = if queue == 0 { 0x1_0000 } else { HIGH };
        let (question, answer) = (base + 0x4000, base + 0x5000);
        self.memory
            .write_slice(request, GuestAddress(question))
            .unwrap();
        let len = u32::try_from(request.len()).unwrap();
        let descriptor = |address: u64, flags: u16, next: u16| {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
            bytes
        };
        let table = [descriptor(question, 1, 1), descriptor(answer, 2, 0)].concat();
        self.memory.write_slice(&table, GuestAddress(base)).unwrap();
        let at = &mut self.next[usize::from(queue)];
        let slot = base + 0x1004 + u64::from(*at % 16) * 2;
        self.memory.write_obj(0u16, GuestAddress(slot)).unwrap();
        fence(Ordering::SeqCst);
        *at += 1;
        self.memory
            .write_obj(*at, GuestAddress(base + 0x1002))
            .unwrap();
    }

    /// What the device has answered, if it has answered everything.
    pub(crate) fn answer(&self, queue: u16, len: usize) -> Option<Vec<u8>> {
        let base = if queue == 0 { 0x1_0000 } else { HIGH };
        let used: u16 = self.memory.read_obj(GuestAddress(base + 0x2002)).unwrap();
        let mut answer = vec![0; len];
        self.memory
            .read_slice(&mut answer, GuestAddress(base + 0x5000))
            .unwrap();
        (used == self.next[usize::from(queue)]).then_some(answer)
    }

    pub(crate) fn ring(&self, queue: u64) -> bool {
        self.host.ring(BAR + NOTIFY_OFFSET + 4 * queue)
    }

    /// A request through the ring, from kick to interrupt; the data of the interrupt's message.
    pub(crate) fn request(&mut self, queue: u16) -> u32 {
        self.offer(queue, b"hello");
        assert!(self.ring(queue.into()), "a doorbell");
        let message = self.interrupt(queue + 1).expect("an interrupt");
        let expected: Vec<u8> = b"hello".iter().map(|byte| !byte).collect();
        assert_eq!(self.answer(queue, 5), Some(expected));
        message
    }

    pub(crate) fn interrupt(&self, vector: u16) -> Option<u32> {
        let message = self
            .host
            .interrupt_within(vector.into(), Duration::from_secs(5))?;
        assert_eq!(message.address, 0xfee0_0000);
        Some(message.data)
    }

    pub(crate) fn no_interrupt(&self, vector: u16) -> bool {
        self.host
            .interrupt_within(vector.into(), Duration::from_millis(50))
            .is_none()
    }

    /// Which back end was lost, and why.
    pub(crate) fn loss(&self) -> (u32, String) {
        match self.events.recv_timeout(Duration::from_secs(5)) {
            Ok(Event::DeviceLost { name, life, reason }) => {
                assert_eq!(name, "echo");
                (life, reason)
            }
            other => panic!("no loss: {other:?}"),
        }
    }

    /// Why the device failed.
    pub(crate) fn failure(&self) -> String {
        match self.events.recv_timeout(Duration::from_secs(5)) {
            Ok(Event::DeviceFailed { name, reason }) => {
                assert_eq!(name, "echo");
                reason
            }
            other => panic!("no failure: {other:?}"),
        }
    }
}
