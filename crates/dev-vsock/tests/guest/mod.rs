//! A guest's vsock driver over `vq-driver`, and a device for it in a thread of the test.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::num::Wrapping;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dev_vsock::request::{HOST_CID, Header, Op, TYPE_STREAM};
use dev_vsock::{Accepted, Inbox, Legacy, Vsock};
use device::serve::Server;
use nix::sys::memfd::{MFdFlags, memfd_create};
use vq_driver::{Buffer, Driver, Setup};
use wire::vsock::{JOURNAL_SIZE, Stream};

pub const CID: u64 = 77;
pub const PORT: u32 = 1025;
pub const SECOND: Duration = Duration::from_secs(1);
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A journal that nobody has written yet.
pub fn journal() -> File {
    let file = File::from(memfd_create("journal", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(JOURNAL_SIZE).unwrap();
    file
}

/// The host's side: where connections are asked for and arrive.
pub struct Host {
    pub inbox: Arc<Inbox>,
    pub accepted: Receiver<Accepted>,
    pub socket: UnixStream,
    connects: Cell<u32>,
    server: Option<JoinHandle<Result<(), device::serve::Error>>>,
}

impl Host {
    /// A device that waits for a front end on [`Host::socket`].
    pub fn start() -> Self {
        Self::start_accepting(vec![PORT])
    }

    pub fn start_accepting(accept_ports: Vec<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let socket = UnixStream::connect(&path).unwrap();
        let config = wire::vsock::Config {
            guest_cid: CID,
            accept_ports,
        };
        let inbox = Arc::new(Inbox::new().unwrap());
        let (sender, accepted) = sync_channel(64);
        let legacy = Legacy {
            journal: journal().into(),
            streams: Vec::new(),
        };
        let device = Vsock::new(
            config.try_into().unwrap(),
            Arc::clone(&inbox),
            sender,
            legacy,
        );
        let device = device.unwrap();
        let server = std::thread::spawn(move || {
            Server::new(device, OwnedFd::from(listener)).and_then(Server::serve)
        });
        Self {
            inbox,
            accepted,
            socket,
            connects: Cell::new(0),
            server: Some(server),
        }
    }

    pub fn connect(&self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        self.connects.set(self.connects.get() + 1);
        let id = self.connects.get();
        self.inbox.connect(Stream { id, port }, theirs);
        ours
    }

    pub fn accept(&self) -> UnixStream {
        let accepted = self.accepted.recv_timeout(PATIENCE).unwrap();
        assert_eq!(accepted.stream.port, PORT);
        let stream = accepted.theirs;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Waits for the device to end by itself.
    pub fn end(mut self) -> Result<(), device::serve::Error> {
        let until = Instant::now() + PATIENCE;
        let server = self.server.take().unwrap();
        while !server.is_finished() {
            assert!(Instant::now() < until, "the device does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        server.join().unwrap()
    }
}

/// How the guest lays out a packet in descriptors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// Header and data in one descriptor, as Linux does from 6.2 on.
    Single,
    /// One each, as Linux did before.
    Split,
    /// In an indirect table, the data in three pieces, the first of them with the header.
    Scattered,
}

/// The guest.
pub struct Guest {
    pub driver: Driver,
    pub layout: Layout,
    receive: HashMap<u16, u64>,
    receive_size: usize,
    free: Vec<u64>,
    sending: HashMap<u16, u64>,
    /// Packets that arrived and were not asked for yet.
    pub arrived: VecDeque<(Header, Vec<u8>)>,
    pub connections: HashMap<(u32, u32), Peer>,
    pub packets_sent: u64,
    pub packets_received: u64,
}

/// The guest's view of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    pub sent: Wrapping<u32>,
    pub host_buffer: u32,
    pub host_forwarded: Wrapping<u32>,
    pub received: Wrapping<u32>,
    pub forwarded: Wrapping<u32>,
    pub buffer: u32,
    pub said: Wrapping<u32>,
}

const SEND_SIZE: usize = 64 * 1024 + 64;

impl Guest {
    pub fn start(host: &Host) -> Self {
        Self::start_with(host, Layout::Single, 4096 + 44)
    }

    pub fn start_with(host: &Host, layout: Layout, receive_size: usize) -> Self {
        let setup = Setup {
            memory: 64 << 20,
            queues: &[128, 128, 16],
            ..Setup::default()
        };
        Self::start_setup(host, &setup, layout, receive_size)
    }

    pub fn start_setup(
        host: &Host,
        setup: &Setup<'_>,
        layout: Layout,
        receive_size: usize,
    ) -> Self {
        let driver = Driver::start(host.socket.try_clone().unwrap(), setup).unwrap();
        Self::over(driver, layout, receive_size)
    }

    pub fn over(driver: Driver, layout: Layout, receive_size: usize) -> Self {
        let free = (0..64)
            .map(|_| driver.memory.allocate(SEND_SIZE).unwrap())
            .collect();
        let mut guest = Self {
            driver,
            layout,
            receive: HashMap::new(),
            receive_size,
            free,
            sending: HashMap::new(),
            arrived: VecDeque::new(),
            connections: HashMap::new(),
            packets_sent: 0,
            packets_received: 0,
        };
        for _ in 0..32 {
            let address = guest.driver.memory.allocate(receive_size).unwrap();
            guest.offer(address);
        }
        guest.driver.queues[0].kick().unwrap();
        guest
    }

    /// Whether a packet can be sent without waiting for the device.
    pub fn may_send(&mut self) -> bool {
        self.reclaim();
        !self.free.is_empty()
    }

    /// A driver that knows of nothing, whose rings begin at 0.
    pub fn anew(self) -> Self {
        Self::over(self.driver, self.layout, self.receive_size)
    }

    /// The guest restarts: a new driver, with rings that begin at 0, takes the device over.
    pub fn reboot(self) -> Self {
        let Self {
            mut driver,
            layout,
            receive_size,
            ..
        } = self;
        for index in 0..3u8 {
            driver.frontend.stop_ring(index.into()).unwrap();
            driver.queues[usize::from(index)].reset().unwrap();
        }
        for index in 0..3 {
            driver.start_queue(index, 0).unwrap();
        }
        Self::over(driver, layout, receive_size)
    }

    /// The VMM dies.
    pub fn vanish(self) {
        let stream = self.driver.frontend.stream();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// Gives the device a receive buffer.
    pub fn offer(&mut self, address: u64) {
        let size = self.receive_size as u32;
        let queue = &mut self.driver.queues[0];
        let head = match self.layout {
            Layout::Single => queue.add(&[Buffer::writable(address, size)]),
            Layout::Split => queue.add(&[
                Buffer::writable(address, 44),
                Buffer::writable(address + 44, size - 44),
            ]),
            Layout::Scattered => queue.add_indirect(&[
                Buffer::writable(address, 50),
                Buffer::writable(address + 50, 1),
                Buffer::writable(address + 51, size - 51),
            ]),
        };
        self.receive.insert(head.unwrap(), address);
    }

    fn reclaim(&mut self) {
        while let Some(used) = self.driver.queues[1].used().unwrap() {
            assert_eq!(used.written, 0);
            self.free.push(self.sending.remove(&used.head).unwrap());
        }
    }

    /// Waits until the device has returned all that was sent.
    pub fn settle(&mut self) {
        while !self.sending.is_empty() {
            let used = self.driver.queues[1].wait(PATIENCE).unwrap();
            self.free.push(self.sending.remove(&used.head).unwrap());
        }
    }

    /// Sends a packet as it is.
    pub fn send_raw(&mut self, header: &Header, data: &[u8]) {
        self.reclaim();
        let address = loop {
            match self.free.pop() {
                Some(address) => break address,
                None => {
                    let used = self.driver.queues[1].wait(PATIENCE).unwrap();
                    self.free.push(self.sending.remove(&used.head).unwrap());
                }
            }
        };
        self.driver.memory.write(address, &header.encode()).unwrap();
        self.driver.memory.write(address + 44, data).unwrap();
        let all = 44 + data.len() as u32;
        let readable = Buffer::readable;
        let queue = &mut self.driver.queues[1];
        let head = match self.layout {
            _ if data.len() < 3 => queue.add(&[readable(address, all)]),
            Layout::Single => queue.add(&[readable(address, all)]),
            Layout::Split => queue.add(&[readable(address, 44), readable(address + 44, all - 44)]),
            Layout::Scattered => queue.add_indirect(&[
                readable(address, 45),
                readable(address + 45, 1),
                readable(address + 46, all - 46),
            ]),
        };
        self.sending.insert(head.unwrap(), address);
        self.packets_sent += 1;
        queue.kick().unwrap();
    }

    /// A header from `guest_port` to `host_port` with the connection's credit.
    pub fn header(&mut self, op: Op, host_port: u32, guest_port: u32) -> Header {
        let peer = self
            .connections
            .entry((host_port, guest_port))
            .or_insert(Peer {
                buffer: 256 * 1024,
                ..Peer::default()
            });
        peer.said = peer.forwarded;
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: guest_port,
            dst_port: host_port,
            kind: TYPE_STREAM,
            op: op as u16,
            buf_alloc: peer.buffer,
            fwd_cnt: peer.forwarded.0,
            ..Header::default()
        }
    }

    pub fn send(&mut self, op: Op, host_port: u32, guest_port: u32) {
        let header = self.header(op, host_port, guest_port);
        self.send_raw(&header, &[]);
    }

    pub fn send_shutdown(&mut self, host_port: u32, guest_port: u32, flags: u32) {
        let header = self.header(Op::Shutdown, host_port, guest_port);
        self.send_raw(&Header { flags, ..header }, &[]);
    }

    /// How much the host has room for on a connection.
    pub fn credit(&self, host_port: u32, guest_port: u32) -> usize {
        let peer = &self.connections[&(host_port, guest_port)];
        (peer.host_buffer - (peer.sent - peer.host_forwarded).0) as usize
    }

    /// Sends data whether or not there is credit.
    pub fn send_data(&mut self, host_port: u32, guest_port: u32, data: &[u8]) {
        let mut header = self.header(Op::Data, host_port, guest_port);
        header.len = data.len() as u32;
        self.connections
            .get_mut(&(host_port, guest_port))
            .unwrap()
            .sent += header.len;
        self.send_raw(&header, data);
    }

    /// Takes in what has arrived, without waiting; whether there was anything.
    pub fn poll(&mut self) -> bool {
        let mut any = false;
        while let Some(used) = self.driver.queues[0].used().unwrap() {
            self.take_in(used);
            any = true;
        }
        if any {
            self.driver.queues[0].kick().unwrap();
        }
        any
    }

    fn take_in(&mut self, used: vq_driver::Used) {
        let address = self.receive.remove(&used.head).unwrap();
        let mut bytes = [0; Header::SIZE];
        self.driver.memory.read(address, &mut bytes).unwrap();
        let header = Header::parse(&bytes);
        let mut data = vec![0; header.len as usize];
        assert_eq!(used.written as usize, 44 + data.len());
        self.driver.memory.read(address + 44, &mut data).unwrap();
        self.offer(address);
        self.packets_received += 1;
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
        if header.op != Op::Reset as u16 {
            let key = (header.src_port, header.dst_port);
            let peer = self.connections.entry(key).or_insert(Peer {
                buffer: 256 * 1024,
                ..Peer::default()
            });
            peer.host_buffer = header.buf_alloc;
            peer.host_forwarded = Wrapping(header.fwd_cnt);
            peer.received += header.len;
            let waiting = (peer.received - peer.forwarded).0;
            assert!(
                waiting <= peer.buffer,
                "the device sent {waiting} without credit"
            );
        }
        self.arrived.push_back((header, data));
    }

    /// The next packet.
    pub fn receive_within(&mut self, patience: Duration) -> Option<(Header, Vec<u8>)> {
        let until = Instant::now() + patience;
        loop {
            if let Some(packet) = self.arrived.pop_front() {
                return Some(packet);
            }
            if self.poll() {
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            let used = self.driver.queues[0].wait(left).ok()?;
            self.take_in(used);
            self.driver.queues[0].kick().unwrap();
        }
    }

    pub fn receive(&mut self) -> (Header, Vec<u8>) {
        self.receive_within(PATIENCE).expect("nothing arrived")
    }

    /// The next packet, which must be this operation.
    pub fn expect(&mut self, op: Op) -> (Header, Vec<u8>) {
        let (header, data) = self.receive();
        assert_eq!(header.op, op as u16, "{header:?}");
        (header, data)
    }

    /// Skips packets up to the reset that answers the end of a connection.
    pub fn expect_reset_of(&mut self, host_port: u32) {
        loop {
            let (header, _) = self.receive();
            if header.op == Op::Reset as u16 {
                assert_eq!(header.src_port, host_port);
                return;
            }
        }
    }

    /// Nothing arrives for a while.
    pub fn expect_silence(&mut self) {
        let packet = self.receive_within(Duration::from_millis(100));
        assert!(packet.is_none(), "{packet:?}");
    }

    /// The application read all that arrived on a connection: tell the host if it is worth it.
    pub fn consumed(&mut self, host_port: u32, guest_port: u32, bytes: usize) {
        let peer = self.connections.get_mut(&(host_port, guest_port)).unwrap();
        peer.forwarded += bytes as u32;
        if (peer.forwarded - peer.said).0 >= peer.buffer / 4 {
            self.send(Op::CreditUpdate, host_port, guest_port);
        }
    }

    /// Answers a connection of the host's; its ports.
    pub fn accept(&mut self) -> (u32, u32) {
        let (header, _) = self.expect(Op::Request);
        self.send(Op::Response, header.src_port, header.dst_port);
        (header.src_port, header.dst_port)
    }

    /// Connects to the host; the device must agree.
    pub fn connect(&mut self, host_port: u32, guest_port: u32) {
        self.send(Op::Request, host_port, guest_port);
        let (header, _) = self.expect(Op::Response);
        assert_eq!((header.src_port, header.dst_port), (host_port, guest_port));
    }

    /// The device still serves: a fresh connection carries a byte both ways.
    pub fn assert_served(&mut self, host: &Host, guest_port: u32) {
        use std::io::{Read, Write};
        let mut stream = host.connect(guest_port);
        let (host_port, _) = loop {
            let (header, _) = self.receive();
            if header.op == Op::Request as u16 && header.dst_port == guest_port {
                self.send(Op::Response, header.src_port, header.dst_port);
                break (header.src_port, header.dst_port);
            }
        };
        self.send_data(host_port, guest_port, b"x");
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        stream.write_all(b"y").unwrap();
        let (header, data) = self.expect(Op::Data);
        assert_eq!((header.dst_port, data.as_slice()), (guest_port, &b"y"[..]));
    }
}
