//! A guest's network driver over `vq-driver`, and a device for it in a thread of the test.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

pub mod dialer;
pub mod frames;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dev_net::header::{Header, feature};
use dev_net::{Net, OtherEnd};
use device::serve::Server;
use handoff::Channel;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vq_driver::{
    Buffer, Driver, F_EVENT_IDX, F_INDIRECT_DESC, Frontend, PROTOCOL_REPLY_ACK, Setup,
};
use wire::net::{Addresses, Backend, Config};

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x15];
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What Linux' driver takes.
pub const ALL: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::MTU
    | feature::MAC
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::MRG_RXBUF
    | feature::STATUS
    | feature::CTRL_VQ
    | feature::HOST_USO
    | F_EVENT_IDX
    | F_INDIRECT_DESC;

/// The device, and the dialer's ends of its sockets.
pub struct Host {
    pub streams: Channel,
    pub datagrams: OwnedFd,
    pub socket: UnixStream,
    server: Option<JoinHandle<Result<(), device::serve::Error>>>,
}

pub fn config(mtu: u16) -> Config {
    Config {
        mac: MAC,
        mtu,
        pairs: 1,
        backend: Backend::User(Addresses::default()),
        sending: None,
        receiving: None,
    }
}

pub fn pair() -> (OwnedFd, OwnedFd) {
    let kind = SockType::SeqPacket;
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

impl Host {
    /// A device that waits for a front end on [`Host::socket`].
    pub fn start(config: Config) -> Self {
        Self::recording(config, None)
    }

    pub fn recording(config: Config, pcap: Option<OwnedFd>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let socket = UnixStream::connect(&path).unwrap();
        let (streams, theirs) = pair();
        let (datagrams, their_datagrams) = pair();
        let other_end = OtherEnd::User {
            streams: theirs,
            datagrams: their_datagrams,
        };
        let net = Net::build(config.try_into().unwrap(), other_end, pcap).unwrap();
        let server = std::thread::spawn(move || {
            Server::new(net, OwnedFd::from(listener)).and_then(Server::serve)
        });
        Self {
            streams: streams.into(),
            datagrams,
            socket,
            server: Some(server),
        }
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

impl Drop for Host {
    /// The device goes before the dialer's ends of its sockets do.
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// The guest's driver.
pub struct Guest {
    pub driver: Driver,
    receive: HashMap<u16, u64>,
    receive_size: u32,
    free: Vec<u64>,
    sending: HashMap<u16, u64>,
    pub received: VecDeque<(Header, Vec<u8>)>,
}

const SEND_SIZE: usize = 66_000;

impl Guest {
    /// A driver that wants `features`, with receive buffers of `receive_size` bytes.
    pub fn start(host: &Host, features: u64, receive_size: u32) -> Self {
        Self::start_with(host.socket.try_clone().unwrap(), features, receive_size)
    }

    pub fn start_with(socket: UnixStream, features: u64, receive_size: u32) -> Self {
        let setup = Setup {
            memory: 64 << 20,
            queues: &[256, 256, 16],
            features,
            ..Setup::default()
        };
        let driver = Driver::start(socket, &setup).unwrap();
        let free = (0..64)
            .map(|_| driver.memory.allocate(SEND_SIZE).unwrap())
            .collect();
        let mut guest = Self {
            driver,
            receive: HashMap::new(),
            receive_size,
            free,
            sending: HashMap::new(),
            received: VecDeque::new(),
        };
        for _ in 0..240 {
            let address = guest.driver.memory.allocate(receive_size as usize).unwrap();
            guest.offer(address);
        }
        guest.driver.queues[0].kick().unwrap();
        guest
    }

    /// Another device takes the place of the one that there was, as a VMM makes it.
    pub fn moves_to(&mut self, host: &Host) {
        let Driver {
            frontend,
            memory,
            features,
            ..
        } = &mut self.driver;
        *frontend = Frontend::new(host.socket.try_clone().unwrap(), PATIENCE).unwrap();
        frontend.set_owner().unwrap();
        frontend.features().unwrap();
        frontend.protocol_features().unwrap();
        frontend.set_protocol_features(PROTOCOL_REPLY_ACK).unwrap();
        frontend.set_features(*features).unwrap();
        frontend.set_memory(memory).unwrap();
        for index in 0..3_u8 {
            let base = self.driver.queues[usize::from(index)].used_index();
            self.driver.start_queue(index, base).unwrap();
        }
    }

    fn offer(&mut self, address: u64) {
        let buffer = Buffer::writable(address, self.receive_size);
        let head = self.driver.queues[0].add(&[buffer]).unwrap();
        self.receive.insert(head, address);
    }

    /// Whether the device has room for another packet.
    pub fn may_send(&mut self) -> bool {
        while let Some(used) = self.driver.queues[1].used().unwrap() {
            let address = self.sending.remove(&used.head).unwrap();
            self.free.push(address);
        }
        !self.free.is_empty()
    }

    /// Sends a packet, in one descriptor for the headers and one for the rest.
    pub fn send(&mut self, header: &Header, frame: &[u8]) {
        let until = Instant::now() + PATIENCE;
        while !self.may_send() {
            assert!(Instant::now() < until, "the device takes no packets");
            std::thread::yield_now();
        }
        self.send_raw(&[&header.encode()[..], frame].concat());
        self.driver.queues[1].kick().unwrap();
    }

    /// Makes any bytes available as a packet.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let address = self.free.pop().unwrap();
        self.driver.memory.write(address, bytes).unwrap();
        let length = bytes.len() as u32;
        let split = length.min(64);
        let buffers = [
            Buffer::readable(address, split),
            Buffer::readable(address + u64::from(split), length - split),
        ];
        let count = if length > split { 2 } else { 1 };
        let head = self.driver.queues[1].add(&buffers[..count]).unwrap();
        self.sending.insert(head, address);
    }

    /// Takes what the device gave.
    pub fn poll(&mut self) {
        let mut offered = false;
        while let Some(used) = self.driver.queues[0].used().unwrap() {
            let (mut bytes, again) = self.take(used);
            let (header, _) = bytes.split_first_chunk().unwrap();
            let header = Header::parse(header);
            let mut addresses = vec![again];
            for _ in 1..header.buffers {
                // All of them at once, or the device is wrong.
                let used = self.driver.queues[0].used().unwrap().unwrap();
                let (more, again) = self.take(used);
                bytes.extend(more);
                addresses.push(again);
            }
            for address in addresses {
                self.offer(address);
            }
            offered = true;
            let frame = bytes.split_off(Header::SIZE);
            self.received.push_back((header, frame));
        }
        if offered {
            self.driver.queues[0].kick().unwrap();
        }
        self.driver.queues[0].want_call().unwrap();
    }

    fn take(&mut self, used: vq_driver::Used) -> (Vec<u8>, u64) {
        let address = self.receive.remove(&used.head).unwrap();
        let mut bytes = vec![0; used.written as usize];
        self.driver.memory.read(address, &mut bytes).unwrap();
        (bytes, address)
    }

    /// The next packet, if there is one before `patience` is over.
    pub fn receive_within(&mut self, patience: Duration) -> Option<(Header, Vec<u8>)> {
        let until = Instant::now() + patience;
        loop {
            self.poll();
            if let Some(packet) = self.received.pop_front() {
                return Some(packet);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let call = self.driver.queues[0].call_fd();
            vq_driver::await_readable(&[call], left.min(Duration::from_millis(20))).unwrap();
            self.driver.queues[0].drain_call();
        }
    }

    pub fn receive(&mut self) -> (Header, Vec<u8>) {
        self.receive_within(PATIENCE)
            .expect("the device sends nothing")
    }

    /// Sends a command, and returns the answer.
    pub fn command(&mut self, command: &[u8]) -> u8 {
        let address = self.driver.memory.allocate(command.len() + 1).unwrap();
        self.driver.memory.write(address, command).unwrap();
        let length = command.len() as u32;
        let queue = &mut self.driver.queues[2];
        queue
            .add(&[
                Buffer::readable(address, length),
                Buffer::writable(address + u64::from(length), 1),
            ])
            .unwrap();
        queue.kick().unwrap();
        assert_eq!(queue.wait(PATIENCE).unwrap().written, 1);
        let mut answer = [0];
        let at = address + u64::from(length);
        self.driver.memory.read(at, &mut answer).unwrap();
        answer[0]
    }
}
