//! TCP through the device to sockets of the host, without a VM: a guest that does no more than it
//! must, so that the device is what is measured.
//!
//! `cargo bench -p dev-net`; with a word, only what contains it. The device's system calls are counted
//! where there is `perf` and it may look at them.

#![allow(
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a benchmark prints small numbers"
)]

#[path = "../tests/guest/mod.rs"]
mod guest;

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dev_net::header::Header;
use guest::frames::tcp;
use guest::{ALL, Guest, Host, config, dialer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const ACK: u8 = 16;
const SYN: u8 = 2;

/// Each measurement takes this long.
const TIME: Duration = Duration::from_secs(2);

/// How many are taken; the middle one counts.
const RUNS: usize = 5;

/// Where there are many.
const STREAMS: u16 = 256;

/// A connection as the guest sees it.
#[derive(Clone, Copy)]
struct Stream {
    port: u16,
    to: SocketAddrV4,
    /// The next byte to send, and to receive.
    seq: u32,
    ack: u32,
    /// What the host has acknowledged, and its window.
    acked: u32,
    window: u32,
}

struct Bench {
    _host: Host,
    guest: Guest,
    streams: HashMap<u16, Stream>,
    mtu: usize,
}

fn checksummed() -> Header {
    Header {
        checksum: Some((34, 16)),
        ..Header::default()
    }
}

impl Bench {
    fn new(mtu: u16) -> Self {
        let host = Host::start(config(mtu));
        dialer::serve(&host);
        let guest = Guest::start(&host, ALL, 4096);
        Self {
            _host: host,
            guest,
            streams: HashMap::new(),
            mtu: mtu.into(),
        }
    }

    /// Opens a connection to `to`, with a window scaled by 5.
    fn connect(&mut self, port: u16, to: SocketAddrV4) {
        let mut frame = tcp(port, to, 1, 0, SYN, &[2, 4, 0xff, 0xc8, 1, 3, 3, 5]);
        // The eight bytes are options.
        frame[46] = 0x70;
        self.guest.send(&checksummed(), &frame);
        let stream = Stream {
            port,
            to,
            seq: 2,
            ack: 0,
            acked: 2,
            window: 0,
        };
        self.streams.insert(port, stream);
        while self.streams[&port].ack == 0 {
            self.take(Duration::from_secs(5));
        }
        self.acknowledge(port);
    }

    fn acknowledge(&mut self, port: u16) {
        let stream = self.streams[&port];
        let frame = tcp(port, stream.to, stream.seq, stream.ack, ACK, b"");
        self.guest.send(&checksummed(), &frame);
    }

    /// Takes what the device gave; payload bytes and packets.
    fn take(&mut self, patience: Duration) -> (usize, usize) {
        let (mut bytes, mut packets) = (0, 0);
        let mut next = self.guest.receive_within(patience);
        let mut heard = Vec::new();
        while let Some((_, frame)) = next {
            let port = u16::from_be_bytes([frame[36], frame[37]]);
            if let Some(stream) = self.streams.get_mut(&port) {
                let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
                let header = usize::from(frame[46] >> 4) * 4;
                let payload = frame.len() - 34 - header;
                let syn = u32::from(frame[47] & SYN != 0);
                stream.ack = number(38).wrapping_add(payload as u32 + syn);
                stream.acked = number(42);
                let scale = if syn == 0 { 5 } else { 0 };
                stream.window = u32::from(u16::from_be_bytes([frame[48], frame[49]])) << scale;
                bytes += payload;
                if payload > 0 {
                    packets += 1;
                    if !heard.contains(&port) {
                        heard.push(port);
                    }
                }
            }
            next = self.guest.received.pop_front();
        }
        for port in heard {
            self.acknowledge(port);
        }
        (bytes, packets)
    }

    /// Sends segments of `size` bytes over all streams in turn for a while; bytes a second, and
    /// packets.
    fn upload(&mut self, size: usize) -> (f64, f64) {
        let size = size.min(self.mtu - 40);
        let payload = vec![0x55; size];
        let ports: Vec<u16> = self.streams.keys().copied().collect();
        let (mut packets, mut bytes, begin) = (0_usize, 0_usize, Instant::now());
        while begin.elapsed() < TIME {
            let mut sent = false;
            for port in &ports {
                let stream = *self.streams.get(port).unwrap();
                let flying = stream.seq.wrapping_sub(stream.acked);
                let room = stream.window.saturating_sub(flying) as usize;
                // A part only where a whole one never fits.
                let length = if flying == 0 { size.min(room) } else { size };
                if length == 0 || length > room || !self.guest.may_send() {
                    continue;
                }
                let frame = tcp_raw(&stream, &payload[..length]);
                self.guest.send(&checksummed(), &frame);
                self.streams.get_mut(port).unwrap().seq = stream.seq.wrapping_add(length as u32);
                packets += 1;
                bytes += length;
                sent = true;
            }
            let wait = if sent {
                Duration::ZERO
            } else {
                Duration::from_millis(5)
            };
            self.take(wait);
        }
        let seconds = begin.elapsed().as_secs_f64();
        (bytes as f64 / seconds, packets as f64 / seconds)
    }

    /// Takes what the host sends for a while.
    fn download(&mut self) -> (f64, f64) {
        let (mut bytes, mut packets, begin) = (0, 0, Instant::now());
        while begin.elapsed() < TIME {
            let (more, count) = self.take(Duration::from_millis(5));
            bytes += more;
            packets += count;
        }
        let seconds = begin.elapsed().as_secs_f64();
        (bytes as f64 / seconds, packets as f64 / seconds)
    }

    /// Sends a byte and waits for one, again and again; microseconds for each.
    fn round_trips(&mut self, port: u16) -> f64 {
        let (mut count, begin) = (0, Instant::now());
        while begin.elapsed() < TIME {
            let stream = self.streams[&port];
            self.guest.send(&checksummed(), &tcp_raw(&stream, b"x"));
            self.streams.get_mut(&port).unwrap().seq = stream.seq.wrapping_add(1);
            while self.take(Duration::from_secs(1)).0 == 0 {}
            count += 1;
        }
        begin.elapsed().as_secs_f64() * 1e6 / f64::from(count)
    }
}

/// A segment without a checksum of its payload.
fn tcp_raw(stream: &Stream, payload: &[u8]) -> Vec<u8> {
    let length = 20 + payload.len();
    let mut frame = tcp(stream.port, stream.to, stream.seq, stream.ack, ACK, b"");
    frame.extend_from_slice(payload);
    let total = (20 + length) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = guest::frames::checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

/// A server on loopback: each connection is given to `serve`.
fn server(serve: fn(TcpStream)) -> SocketAddrV4 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || serve(stream))
                .unwrap();
        }
    });
    SocketAddrV4::new(HOST, port)
}

fn sink(mut stream: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(1..) = stream.read(&mut buffer) {}
}

fn source(mut stream: TcpStream) {
    let buffer = vec![0; 256 << 10];
    while stream.write_all(&buffer).is_ok() {}
}

fn echo(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn idle(stream: TcpStream) {
    // Kept open for as long as the benchmark runs.
    std::mem::forget(stream);
}

/// The system calls of a device's thread, counted by the kernel for `perf`.
struct Calls(Option<Child>);

impl Calls {
    /// The name that vhost-user-backend gives the thread that serves queues.
    const THREAD: &str = "vring_worker";

    fn start() -> Self {
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        // An earlier device's thread may not have ended yet.
        let newest = threads
            .filter(|thread| {
                let name = fs::read_to_string(thread.path().join("comm"));
                name.is_ok_and(|name| name.trim() == Self::THREAD)
            })
            .filter_map(|thread| thread.file_name().into_string().ok()?.parse::<i32>().ok())
            .max();
        let perf = newest.and_then(|thread| {
            Command::new("perf")
                .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-t"])
                .arg(thread.to_string())
                .stderr(Stdio::piped())
                .spawn()
                .ok()
        });
        // It has no way to say that it looks.
        thread::sleep(Duration::from_millis(300));
        Self(perf)
    }

    /// How many there were since the start.
    fn finish(self) -> Option<f64> {
        let perf = self.0?;
        let _ = kill(Pid::from_raw(perf.id().cast_signed()), Signal::SIGINT);
        let output = perf.wait_with_output().ok()?;
        let text = String::from_utf8(output.stderr).ok()?;
        text.split(',').next()?.trim().parse().ok()
    }
}

/// Bytes and packets in a second, and system calls for each packet.
type Rates = (f64, f64, Option<f64>);

fn median(mut values: Vec<Rates>) -> Rates {
    values.sort_by(|left, right| left.0.total_cmp(&right.0));
    values[values.len() / 2]
}

/// What a bench does, with its calls counted.
fn counted(bench: &mut Bench, measure: impl FnOnce(&mut Bench) -> (f64, f64)) -> Rates {
    let calls = Calls::start();
    let (bytes, packets) = measure(bench);
    let calls = calls.finish();
    let all = packets * TIME.as_secs_f64();
    (bytes, packets, calls.map(|calls| calls / all))
}

fn row(name: &str, measure: impl FnMut() -> Rates) {
    let mut measure = measure;
    let (bytes, packets, calls) = median((0..RUNS).map(|_| measure()).collect());
    let calls = calls.map_or("not counted".into(), |calls| format!("{calls:.3}"));
    println!(
        "| {name} | {:.2} Gb/s | {packets:.0}/s | {calls} |",
        bytes * 8.0 / 1e9
    );
}

fn main() {
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let wanted = |name: &str| {
        only.as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    };
    println!("| what | bulk | packets | calls a packet |\n|---|---|---|---|");
    for (mtu, size) in [(1500, 24), (1500, 1460), (65520, 65480)] {
        let name = format!("guest to host, {} bytes a packet", size + 40);
        if wanted(&name) {
            row(&name, || {
                let mut bench = Bench::new(mtu);
                bench.connect(2000, server(sink));
                counted(&mut bench, |bench| bench.upload(size))
            });
        }
    }
    for mtu in [1500, 65520] {
        let name = format!("host to guest, MTU {mtu}");
        if wanted(&name) {
            row(&name, || {
                let mut bench = Bench::new(mtu);
                bench.connect(2000, server(source));
                counted(&mut bench, Bench::download)
            });
        }
    }
    for upload in [true, false] {
        let direction = if upload {
            "guest to host"
        } else {
            "host to guest"
        };
        let name = format!("{direction}, {STREAMS} streams");
        if wanted(&name) {
            row(&name, || {
                let mut bench = Bench::new(65520);
                let to = server(if upload { sink } else { source });
                for port in 0..STREAMS {
                    bench.connect(2000 + port, to);
                }
                if upload {
                    counted(&mut bench, |bench| bench.upload(65480))
                } else {
                    counted(&mut bench, Bench::download)
                }
            });
        }
    }
    if wanted("idle") {
        for idlers in [0, 5000] {
            let mut bench = Bench::new(65520);
            let to = server(idle);
            for port in 0..idlers {
                bench.connect(10_000 + port, to);
            }
            let idle: HashMap<u16, Stream> = std::mem::take(&mut bench.streams);
            bench.connect(2000, server(sink));
            row(&format!("guest to host beside {} idle", idle.len()), || {
                counted(&mut bench, |bench| bench.upload(65480))
            });
            bench.streams.clear();
            bench.connect(2001, server(echo));
            let trip = |_| (bench.round_trips(2001), 0.0, None);
            let trip = median((0..RUNS).map(trip).collect());
            println!(
                "| round trip beside {} idle | {:.1} µs | | |",
                idle.len(),
                trip.0
            );
        }
    }
}
