//! A guest's TCP/IP: smoltcp, which shares no code with the device.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use dev_net::header::Header;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use crate::guest::{Guest, MAC, PATIENCE};

/// The guest with its stack.
pub struct Stack {
    pub card: Card,
    interface: Interface,
    pub sockets: SocketSet<'static>,
    begin: Instant,
}

/// The guest as smoltcp sees it.
pub struct Card {
    pub guest: Guest,
    mtu: usize,
    /// Checksums are the stack's own business.
    checks: bool,
    /// Drops each packet whose turn it is, in both directions.
    pub lose_every: usize,
    turns: usize,
}

impl Card {
    fn loses(&mut self) -> bool {
        self.turns += 1;
        self.lose_every > 0 && self.turns.is_multiple_of(self.lose_every)
    }
}

pub struct Received(Vec<u8>);
pub struct Sending<'a>(&'a mut Card);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        if !self.0.loses() {
            let header = self.0.header(&frame);
            self.0.guest.send(&header, &frame);
        }
        result
    }
}

impl Card {
    /// Where nobody computes checksums, the device has to be told that there are none.
    fn header(&self, frame: &[u8]) -> Header {
        let start = if frame[12] == 8 { 34 } else { 54 };
        let transport = frame[12..14] == [8, 0] || frame[12..14] == [0x86, 0xdd];
        Header {
            checksum: (transport && !self.checks).then_some((start, 16)),
            ..Header::default()
        }
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Time) -> Option<(Received, Sending<'_>)> {
        self.guest.poll();
        loop {
            let (_, frame) = self.guest.received.pop_front()?;
            if !self.loses() {
                return Some((Received(frame), Sending(self)));
            }
        }
    }

    fn transmit(&mut self, _: Time) -> Option<Sending<'_>> {
        self.guest.may_send().then_some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        if !self.checks {
            capabilities.checksum.tcp = Checksum::None;
        }
        capabilities
    }
}

impl Stack {
    /// A stack with the guest's addresses. Without `checks` TCP's checksums are left out on both
    /// sides, as a driver does that has negotiated it.
    pub fn new(guest: Guest, mtu: usize, checks: bool) -> Self {
        let mut card = Card {
            guest,
            mtu,
            checks,
            lose_every: 0,
            turns: 0,
        };
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut card, Time::ZERO);
        let addresses = wire::net::Addresses::default();
        let (v4, v6) = (addresses.v4.unwrap(), addresses.v6.unwrap());
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(v4.guest.into(), v4.prefix)).unwrap();
            all.push(IpCidr::new(v6.guest.into(), v6.prefix)).unwrap();
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(v4.gateway).unwrap();
        routes.add_default_ipv6_route(v6.gateway).unwrap();
        Self {
            card,
            interface,
            sockets: SocketSet::new(Vec::new()),
            begin: Instant::now(),
        }
    }

    pub fn poll(&mut self) {
        let micros = self.begin.elapsed().as_micros();
        let now = Time::from_micros(i64::try_from(micros).unwrap());
        self.interface.poll(now, &mut self.card, &mut self.sockets);
    }

    /// A new socket with buffers of `size` bytes.
    pub fn socket(&mut self, size: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; size]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Begins to connect.
    pub fn connect(&mut self, size: usize, to: (IpAddr, u16), from: u16) -> SocketHandle {
        let handle = self.socket(size);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let to = (IpAddress::from(to.0), to.1);
        socket.connect(self.interface.context(), to, from).unwrap();
        handle
    }

    /// Runs until `done` says so.
    #[track_caller]
    pub fn run(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            self.poll();
            if done(self) {
                return;
            }
            assert!(Instant::now() < until, "not in time: {what}");
            if self.card.guest.received.is_empty() {
                let call = self.card.guest.driver.queues[0].call_fd();
                let _ = vq_driver::await_readable(&[call], Duration::from_millis(1));
                self.card.guest.driver.queues[0].drain_call();
            }
        }
    }

    #[track_caller]
    pub fn await_state(&mut self, handle: SocketHandle, state: tcp::State) {
        self.run(&format!("{state}"), |stack| {
            stack.tcp(handle).state() == state
        });
    }

    /// Sends all of `bytes`, while what arrives is kept.
    #[track_caller]
    pub fn exchange(&mut self, handle: SocketHandle, bytes: &[u8], expected: usize) -> Vec<u8> {
        let mut sent = 0;
        let mut received = Vec::new();
        self.run("an exchange", |stack| {
            let socket = stack.tcp(handle);
            if socket.can_send() && sent < bytes.len() {
                sent += socket.send_slice(&bytes[sent..]).unwrap();
            }
            while socket.can_recv() {
                socket
                    .recv(|data| {
                        received.extend_from_slice(data);
                        (data.len(), ())
                    })
                    .unwrap();
            }
            sent == bytes.len() && received.len() >= expected
        });
        received
    }
}
