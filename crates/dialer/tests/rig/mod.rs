//! The network device's and the supervisor's side of a dialer.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use device::{Channel, Resources};
use dialer::config::Config;
use dialer::{Dialer, Error, Links};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket, socketpair,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send, sockopt,
};
use wire::net::{
    Ask, Datagram, DialerConfig, Egress, Kind, MAX_DATAGRAM, Protocol, Publish, Rule, Target, Tell,
    Verdict,
};

/// Longer than anything here takes but what is to take long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The guest's address and a port of its.
pub fn guest(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 2, 15], port))
}

/// A policy that lets everything pass but these networks.
pub fn all_but(networks: &[&str]) -> Egress {
    let rule = |text: &&str| {
        let (network, prefix) = text.split_once('/').unwrap();
        Rule {
            network: network.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            ports: (0, u16::MAX),
            verdict: Verdict::Deny,
        }
    };
    Egress {
        rules: networks.iter().map(rule).collect(),
        otherwise: Verdict::Allow,
    }
}

pub fn config(egress: Egress) -> DialerConfig {
    DialerConfig {
        egress,
        nameservers: Vec::new(),
        publish: Vec::new(),
    }
}

/// The sockets between a device and a dialer: what each side holds.
pub fn pair() -> (OwnedFd, OwnedFd) {
    let pair = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    );
    let (ours, theirs) = pair.unwrap();
    let seconds = Some(PATIENCE);
    sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, seconds).unwrap();
    (ours, theirs)
}

/// The device's side.
pub struct Device {
    pub streams: OwnedFd,
    pub datagrams: OwnedFd,
}

impl Device {
    pub fn ask(&self, ask: Ask) {
        // As a `handoff::Channel` sends it.
        let packet = [vec![0], wire::encode(&ask).unwrap()].concat();
        send(&self.streams, &packet, SendFlags::NOSIGNAL).unwrap();
    }

    pub fn connect(&self, id: u32, address: impl Into<SocketAddr>) {
        let target = Target::Address(address.into());
        self.ask(Ask::Connect { id, target });
    }

    /// What the dialer tells next.
    pub fn told(&self) -> (Tell, Option<TcpStream>) {
        self.told_within(PATIENCE).expect("nothing is told")
    }

    pub fn told_within(&self, limit: Duration) -> Option<(Tell, Option<TcpStream>)> {
        sockopt::set_socket_timeout(&self.streams, sockopt::Timeout::Recv, Some(limit)).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 256];
        let vector = &mut [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.streams, vector, &mut control, flags).ok()?;
        let tell = wire::decode(&buffer[1..received.bytes]).unwrap();
        let mut sockets = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let stream = sockets.next().map(TcpStream::from);
        if let Some(stream) = &stream {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Some((tell, stream))
    }

    /// The stream of a connection that succeeds.
    pub fn connected(&self, id: u32) -> TcpStream {
        let (tell, stream) = self.told();
        assert_eq!(tell, Tell::Connected { id });
        stream.unwrap()
    }

    pub fn send(&self, kind: Kind, port: u16, remote: impl Into<SocketAddr>, payload: &[u8]) {
        let datagram = Datagram {
            guest: guest(port),
            remote: remote.into(),
            kind,
            payload,
        };
        self.send_raw(&wire::encode(&datagram).unwrap());
    }

    pub fn send_raw(&self, packet: &[u8]) {
        send(&self.datagrams, packet, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next datagram for the guest.
    pub fn heard(&self) -> (SocketAddr, SocketAddr, Kind, Vec<u8>) {
        self.heard_within(PATIENCE).expect("nothing is heard")
    }

    pub fn heard_within(&self, limit: Duration) -> Option<(SocketAddr, SocketAddr, Kind, Vec<u8>)> {
        sockopt::set_socket_timeout(&self.datagrams, sockopt::Timeout::Recv, Some(limit)).unwrap();
        let mut buffer = vec![0; MAX_DATAGRAM];
        let (length, _) =
            rustix::net::recv(&self.datagrams, &mut buffer[..], RecvFlags::empty()).ok()?;
        let datagram: Datagram<'_> = wire::decode(&buffer[..length]).unwrap();
        Some((
            datagram.guest,
            datagram.remote,
            datagram.kind,
            datagram.payload.to_vec(),
        ))
    }

    /// Nothing comes for the guest for a while.
    pub fn assert_silence(&self) {
        let heard = self.heard_within(Duration::from_millis(200));
        assert_eq!(heard, None);
    }

    /// The dialer still works: a connection is made and carries a byte.
    pub fn assert_served(&self, id: u32) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        self.connect(id, server.local_addr().unwrap());
        let mut stream = self.connected(id);
        stream.write_all(b"x").unwrap();
        let (mut other, _) = server.accept().unwrap();
        std::io::Read::read_exact(&mut other, &mut [0]).unwrap();
    }
}

/// A dialer in a thread of its own.
pub struct Rig {
    pub device: Device,
    pub control: Channel,
    thread: JoinHandle<Result<(), Error>>,
}

impl Rig {
    pub fn start(config: DialerConfig, published: Vec<OwnedFd>) -> Self {
        take_all_descriptors();
        let (streams, their_streams) = pair();
        let (datagrams, their_datagrams) = pair();
        let (control, their_control) = Channel::pair().unwrap();
        let mut resources = vec![
            ("streams".to_owned(), their_streams),
            ("datagrams".to_owned(), their_datagrams),
        ];
        let names = (0..).map(|number| format!("publish-{number}"));
        resources.extend(names.zip(published));
        let config = Config::try_from(config).unwrap();
        let mut resources: Resources = resources.into_iter().collect();
        let links = Links::take(&config, &mut resources).unwrap();
        let dialer = Dialer::new(&config, links).unwrap();
        let thread = std::thread::spawn(move || dialer.run(&their_control));
        Self {
            device: Device { streams, datagrams },
            control,
            thread,
        }
    }

    /// How it ends once the device has left.
    pub fn end(self) -> Result<(), Error> {
        drop(self.device);
        self.thread.join().unwrap()
    }

    /// How it ends by itself.
    pub fn ended(self) -> Result<(), Error> {
        self.thread.join().unwrap()
    }
}

/// Raises the limit of descriptors as far as it goes; both sides are in this process.
fn take_all_descriptors() {
    let resource = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, most) = nix::sys::resource::getrlimit(resource).unwrap();
    nix::sys::resource::setrlimit(resource, most, most).unwrap();
}

/// A UDP socket on loopback that waits for a limited time.
pub fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A port of loopback on which nobody is, nor will be while the tests run.
pub fn nobody() -> SocketAddr {
    loop {
        let datagrams = udp();
        let address = datagrams.local_addr().unwrap();
        // It hears only itself.
        datagrams.connect(address).unwrap();
        let stream = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let taken = bind(stream.as_raw_fd(), &SockaddrStorage::from(address));
        if taken.is_ok() {
            // It does not listen.
            std::mem::forget((datagrams, stream));
            return address;
        }
    }
}

/// Published ports and their sockets.
pub fn publish(protocol: Protocol, port: u16, socket: impl Into<OwnedFd>) -> (Publish, OwnedFd) {
    (Publish { protocol, port }, socket.into())
}

/// The address of a socket on all interfaces, by way of loopback.
pub fn by_loopback(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
}

/// A port of loopback whose queue of connections is full, so that it does not answer.
pub fn silent() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    nix::sys::socket::listen(&server, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let limit = Duration::from_millis(200);
    let connects = std::iter::from_fn(|| TcpStream::connect_timeout(&address, limit).ok());
    let connects = connects.take(64).collect();
    (server, address, connects)
}
