//! How fast bytes go through the device, natively, with `vq-driver` as the guest:
//!
//! ```text
//! cargo run --release -p dev-vsock --example throughput            # all cases
//! strace -fc target/release/examples/throughput to-host            # one case's system calls
//! ```

#![expect(clippy::print_stdout, reason = "it is a report")]
#![expect(clippy::cast_precision_loss, reason = "it is for people")]

#[path = "../tests/guest/mod.rs"]
mod guest;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use dev_vsock::request::Op;
use guest::{Guest, Host, Layout};

const TOTAL: u64 = 1 << 30;
const ROUND_TRIPS: u32 = 20_000;

fn main() {
    let only = std::env::args().nth(1);
    let cases: [(&str, fn()); 4] = [
        ("to-host", to_host),
        ("to-guest-4k", || to_guest("to-guest-4k", 4096 + 44)),
        ("to-guest-64k", || to_guest("to-guest-64k", 65536 + 44)),
        ("round-trips", round_trips),
    ];
    for (name, run) in cases {
        if only.as_deref().is_none_or(|only| only == name) {
            run();
        }
    }
}

fn report(name: &str, guest: &Guest, time: Duration) {
    println!(
        "{name}: {:.0} MB/s, {} packets to the host, {} to the guest, {} kicks",
        TOTAL as f64 / 1e6 / time.as_secs_f64(),
        guest.packets_sent,
        guest.packets_received,
        guest
            .driver
            .queues
            .iter()
            .map(|queue| queue.kicks)
            .sum::<u64>(),
    );
}

/// 64 KiB packets, a reader that throws away.
fn to_host() {
    let host = Host::start();
    let mut guest = Guest::start_with(&host, Layout::Single, 4096 + 44);
    let mut stream = host.connect(1);
    let (host_port, guest_port) = guest.accept();
    let reading = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        let mut left = TOTAL;
        while left > 0 {
            left -= stream.read(&mut buffer).unwrap() as u64;
        }
    });
    let chunk = vec![1; 65536];
    let start = Instant::now();
    let mut left = TOTAL;
    while left > 0 {
        guest.poll();
        guest.arrived.clear();
        if guest.credit(host_port, guest_port) < chunk.len() {
            guest.receive();
            continue;
        }
        guest.send_data(host_port, guest_port, &chunk);
        left -= chunk.len() as u64;
    }
    reading.join().unwrap();
    report("to-host", &guest, start.elapsed());
}

fn to_guest(name: &str, receive_size: usize) {
    let host = Host::start();
    let mut guest = Guest::start_with(&host, Layout::Single, receive_size);
    let mut stream = host.connect(1);
    let (host_port, guest_port) = guest.accept();
    let start = Instant::now();
    let writing = std::thread::spawn(move || {
        let chunk = vec![1; 1 << 20];
        for _ in 0..TOTAL >> 20 {
            stream.write_all(&chunk).unwrap();
        }
        stream
    });
    let mut left = TOTAL;
    while left > 0 {
        let (_, data) = guest.expect(Op::Data);
        guest.consumed(host_port, guest_port, data.len());
        left -= data.len() as u64;
    }
    report(name, &guest, start.elapsed());
    writing.join().unwrap();
}

fn round_trips() {
    let host = Host::start();
    let mut guest = Guest::start(&host);
    let mut stream = host.connect(1);
    let (host_port, guest_port) = guest.accept();
    let start = Instant::now();
    for _ in 0..ROUND_TRIPS {
        stream.write_all(b"ping").unwrap();
        let (_, data) = guest.expect(Op::Data);
        guest.consumed(host_port, guest_port, data.len());
        guest.send_data(host_port, guest_port, &data);
        stream.read_exact(&mut [0; 4]).unwrap();
    }
    let each = start.elapsed() / ROUND_TRIPS;
    println!("round-trips: {} us each", each.as_micros());
}
