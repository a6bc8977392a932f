//! What a guest and a dialer do to the network device: packets that are sound but for what the
//! input changes, through connections that open and end. Afterwards the device still answers.
#![no_main]
#![allow(dead_code, reason = "the tests' modules have more than is used here")]

#[path = "../../crates/dev-net/tests/guest/mod.rs"]
mod guest;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use dev_net::header::Header;
use guest::frames::{GUEST, ROUTER, ethernet, ipv4, tcp, udp};
use guest::{ALL, Guest, Host, MAC, config};
use libfuzzer_sys::fuzz_target;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, recv, send};
use wire::net::{Ask, Failure, Tell};

const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The input, and zeros for ever after.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (now, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..now.len()].copy_from_slice(now);
        bytes
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (now, rest) = self.0.split_at(self.0.len().min(count));
        self.0 = rest;
        now.to_vec()
    }
}

struct Scene {
    host: Host,
    guest: Guest,
    /// The host's ends of connections.
    streams: Vec<UnixStream>,
    /// What the device last said of numbers, so that answers can fit.
    theirs: u32,
}

impl Scene {
    fn start() -> Self {
        let host = Host::start(config(1500));
        let guest = Guest::start(&host, ALL, 2048);
        Self {
            host,
            guest,
            streams: Vec::new(),
            theirs: 0,
        }
    }

    /// One of the kinds of frames that the device knows.
    fn frame(&self, kind: u8, input: &mut Input<'_>) -> Vec<u8> {
        let [port, flags, seq, ack, length] = input.take();
        let payload = input.bytes(length.into());
        let to = SocketAddrV4::new(REMOTE, 80);
        let port = 1000 + u16::from(port & 3);
        match kind % 8 {
            0..3 => {
                let seq = 100_u32.wrapping_add_signed(i32::from(seq.cast_signed()));
                let ack = self.theirs.wrapping_add(ack.into());
                tcp(port, to, seq, ack, flags, &payload)
            }
            3 => udp(port, to, &payload),
            4 => udp(port, SocketAddrV4::new(ROUTER, 53), &payload),
            5 => udp(68, SocketAddrV4::new(ROUTER, 67), &payload),
            6 => ipv4(
                REMOTE,
                [1, 17, 6, 58][usize::from(flags & 3)],
                &payload,
                (1, u16::from_be_bytes([seq, ack])),
            ),
            _ => ethernet(if flags & 1 == 0 { 0x86dd } else { 0x806 }, &payload),
        }
    }

    fn send(&mut self, kind: u8, input: &mut Input<'_>) {
        let mut frame = self.frame(kind, input);
        let [changes, end] = input.take();
        for _ in 0..changes & 3 {
            let [high, low, byte] = input.take();
            let at = usize::from(u16::from_be_bytes([high, low])) % frame.len();
            frame[at] ^= byte;
        }
        if changes & 0x80 != 0 {
            frame.truncate(usize::from(end));
        }
        let header = match changes & 0x40 {
            0 => Header::default().encode(),
            _ => input.take(),
        };
        if self.guest.may_send() {
            self.guest.send_raw(&[&header[..], &frame].concat());
            self.guest.driver.queues[1].kick_anyway().unwrap();
        }
    }

    /// Answers what the device asked.
    fn answer(&mut self, how: u8) {
        let mut waiting = [0; 4096];
        let flags = MsgFlags::MSG_DONTWAIT;
        while let Ok(length @ 1..) =
            recv(self.host.streams.as_fd().as_raw_fd(), &mut waiting, flags)
        {
            let Ok(Ask::Connect { id, .. }) = wire::decode(&waiting[1..length]) else {
                continue;
            };
            if how & 1 == 0 {
                let (ours, theirs) = UnixStream::pair().unwrap();
                ours.set_nonblocking(true).unwrap();
                theirs.set_nonblocking(true).unwrap();
                self.streams.push(ours);
                self.host
                    .streams
                    .send(&Tell::Connected { id }, &[theirs.as_fd()])
                    .unwrap();
            } else {
                let why = [Failure::Refused, Failure::Unreachable, Failure::TimedOut]
                    [usize::from(how % 3)];
                self.host
                    .streams
                    .send(&Tell::Failed { id, why }, &[])
                    .unwrap();
            }
        }
        while let Ok(1..) = recv(self.host.datagrams.as_raw_fd(), &mut waiting, flags) {}
    }

    fn call(&mut self, port: u8) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let tell = Tell::Accepted {
            port: u16::from(port & 3),
            peer: SocketAddrV4::new(REMOTE, 80).into(),
        };
        self.host.streams.send(&tell, &[theirs.as_fd()]).unwrap();
        self.streams.push(ours);
    }

    fn receive(&mut self) {
        self.guest.poll();
        for (_, frame) in self.guest.received.drain(..) {
            if frame.len() >= 42 && frame[12..14] == [8, 0] && frame[23] == 6 {
                self.theirs = u32::from_be_bytes(frame[38..42].try_into().unwrap());
            }
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let [what] = input.take();
        match what % 8 {
            0..3 => self.send(what >> 3, input),
            3 => self.answer(what >> 3),
            4 => {
                for stream in &mut self.streams {
                    let _ = stream.write(&vec![what; usize::from(what) * 32]);
                    let _ = stream.read(&mut [0; 4096]);
                }
            }
            5 => drop(self.streams.pop()),
            6 if what & 8 == 0 => self.call(what >> 4),
            6 => {
                let datagram = input.bytes(usize::from(what));
                let _ = send(
                    self.host.datagrams.as_raw_fd(),
                    &datagram,
                    MsgFlags::MSG_DONTWAIT,
                );
            }
            _ => self.receive(),
        }
    }

    /// The device answers a guest that behaves.
    fn is_served(&mut self) {
        let parts: [&[u8]; 5] = [
            &[0, 1, 8, 0, 6, 4, 0, 1],
            &MAC,
            &GUEST.octets(),
            &[0; 6],
            &ROUTER.octets(),
        ];
        let request = ethernet(0x806, &parts.concat());
        for _ in 0..1000 {
            self.guest.send(&Header::default(), &request);
            while let Some((_, frame)) = self.guest.receive_within(Duration::from_millis(200)) {
                if frame[12..14] == [8, 6] {
                    return;
                }
            }
        }
        panic!("the device does not answer");
    }
}

/// See `vsock_requests`.
fn more_descriptors() {
    const PLENTY: u64 = 1 << 20;
    if setrlimit(Resource::RLIMIT_NOFILE, PLENTY, PLENTY).is_err() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    }
}

fuzz_target!(init: more_descriptors(), |bytes: &[u8]| {
    let mut scene = Scene::start();
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        scene.step(&mut input);
    }
    scene.is_served();
});
