//! Carries packets between a TAP device and the virtqueues of a network device: the guest's driver.

use std::{
    collections::HashMap,
    fs::File,
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use vq_driver::{Buffer, Driver, F_EVENT_IDX, F_INDIRECT_DESC, Queue, Setup};

/// VIRTIO_NET_F_* (virtio 1.2, section 5.1.3) that Linux' driver takes: CSUM, GUEST_CSUM, MTU, MAC,
/// GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF, STATUS, CTRL_VQ.
const FEATURES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 3 << 7 | 3 << 11 | 7 << 15;

/// Where `struct virtio_net_hdr` has the number of receive buffers (section 5.1.6).
const BUFFERS: std::ops::Range<usize> = 10..12;

/// The longest packet with its headers.
const LONGEST: usize = 66_000;

/// One page each, as Linux' driver has them.
const RECEIVE_SIZE: u32 = 4096;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// A pump, which stops when it is dropped.
pub(crate) struct Pump {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Starts the device behind `socket`, and carries its packets.
    pub(crate) fn start(socket: OwnedFd, tap: OwnedFd) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut ends = Ends::new(UnixStream::from(socket), tap.into());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let moved = ends.up() | ends.down();
                if !moved {
                    ends.wait();
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Ends {
    driver: Driver,
    tap: File,
    /// Where each chain's bytes are, by its head.
    receiving: HashMap<u16, u64>,
    sending: HashMap<u16, u64>,
    /// Where further packets can be put.
    free: Vec<u64>,
    buffer: Vec<u8>,
    packet: Vec<u8>,
}

impl Ends {
    fn new(socket: UnixStream, tap: File) -> Self {
        let setup = Setup {
            memory: 32 << 20,
            queues: &[1024, 256, 16],
            features: FEATURES | F_EVENT_IDX | F_INDIRECT_DESC,
            ..Setup::default()
        };
        let driver = Driver::start(socket, &setup).unwrap();
        let allocate = |length| driver.memory.allocate(length).unwrap();
        let free = (0..128).map(|_| allocate(LONGEST)).collect();
        let pages: Vec<_> = (0..1024).map(|_| allocate(RECEIVE_SIZE as usize)).collect();
        let mut ends = Self {
            driver,
            tap,
            receiving: HashMap::new(),
            sending: HashMap::new(),
            free,
            buffer: vec![0; LONGEST],
            packet: Vec::new(),
        };
        pages.into_iter().for_each(|page| ends.offer(page));
        ends.queue(RECEIVE).kick().unwrap();
        ends
    }

    fn queue(&mut self, index: usize) -> &mut Queue {
        self.driver.queues.get_mut(index).unwrap()
    }

    fn offer(&mut self, page: u64) {
        let buffer = Buffer::writable(page, RECEIVE_SIZE);
        let head = self.queue(RECEIVE).add(&[buffer]).unwrap();
        self.receiving.insert(head, page);
    }

    /// Takes back what the device has sent; whether there is room.
    fn may_send(&mut self) -> bool {
        while let Some(used) = self.queue(TRANSMIT).used().unwrap() {
            self.free.extend(self.sending.remove(&used.head));
        }
        !self.free.is_empty()
    }

    /// From the kernel to the device; whether there was anything.
    fn up(&mut self) -> bool {
        let mut any = false;
        while self.may_send() {
            let length = match self.tap.read(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            };
            let place = self.free.pop().unwrap();
            let bytes = self.buffer.get(..length).unwrap();
            self.driver.memory.write(place, bytes).unwrap();
            let buffer = Buffer::readable(place, u32::try_from(length).unwrap());
            let head = self.queue(TRANSMIT).add(&[buffer]).unwrap();
            self.sending.insert(head, place);
            any = true;
        }
        if any {
            self.queue(TRANSMIT).kick().unwrap();
        }
        any
    }

    /// From the device to the kernel; whether there was anything.
    fn down(&mut self) -> bool {
        let mut any = false;
        while self.take() {
            let count = self.packet.get_mut(BUFFERS).unwrap();
            let more = u16::from_le_bytes([count[0], count[1]]).saturating_sub(1);
            count.fill(0);
            for _ in 0..more {
                // All of them at once, or the device is wrong.
                assert!(self.take(), "the device gave a part of a packet");
            }
            // A kernel that does not take it loses it.
            let _ = self.tap.write(&self.packet);
            self.packet.clear();
            any = true;
        }
        if any {
            self.queue(RECEIVE).kick().unwrap();
        }
        any
    }

    /// Appends what is in the next receive buffer to the packet, and offers the buffer again.
    fn take(&mut self) -> bool {
        let Some(used) = self.queue(RECEIVE).used().unwrap() else {
            return false;
        };
        let page = self.receiving.remove(&used.head).unwrap();
        let begin = self.packet.len();
        self.packet.resize(begin + used.written as usize, 0);
        let place = self.packet.get_mut(begin..).unwrap();
        self.driver.memory.read(page, place).unwrap();
        self.offer(page);
        true
    }

    /// Sleeps until there may be something to carry.
    fn wait(&mut self) {
        self.queue(RECEIVE).want_call().unwrap();
        self.queue(TRANSMIT).want_call().unwrap();
        if self.down() {
            return;
        }
        let [receive, transmit, ..] = &self.driver.queues[..] else {
            panic!("the device has lost its queues");
        };
        let calls = [receive.call_fd(), transmit.call_fd(), self.tap.as_fd()];
        // What a full device leaves in the TAP device is no reason to wake up.
        let count = if self.free.is_empty() { 2 } else { 3 };
        let fds = calls.get(..count).unwrap();
        vq_driver::await_readable(fds, Duration::from_millis(20)).unwrap();
        receive.drain_call();
        transmit.drain_call();
    }
}
