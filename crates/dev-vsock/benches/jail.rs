//! What the jail costs: the same traffic through a device that has closed its jail and one that has
//! not, in turn: `cargo bench -p dev-vsock --bench jail`.

#![expect(clippy::print_stdout, reason = "the result")]
#![expect(clippy::cast_precision_loss, reason = "it is for people")]

#[path = "../tests/guest/mod.rs"]
mod guest;
#[path = "../tests/jailed/mod.rs"]
mod jailed;

use std::env;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use dev_vsock::request::Op;
use dev_vsock::{Inbox, Legacy, Vsock};
use device::serve::Server;
use guest::{CID, Guest};
use handoff::Launched;
use jailed::{Process, launch, launch_program};
use wire::vsock::{Config, Request};

const ROUNDS: usize = 5;
const TOTAL: usize = 1 << 29;
const ROUND_TRIPS: u32 = 20_000;

/// What this program is called when it is the device.
const OPEN: &str = "crumble-dev-vsock: open";

/// A number that is better if it is larger.
type Case = (&'static str, fn(&mut Process) -> f64);

const CASES: [Case; 3] = [
    ("guest to host, MB/s", to_host),
    ("host to guest, buffers of 4 KiB, MB/s", to_guest),
    ("round trips/s", round_trips),
];

fn main() {
    if env::args().next().as_deref() == Some(OPEN) {
        return serve();
    }
    let this = env::current_exe().unwrap();
    println!("median of {ROUNDS}: jailed, not jailed, ratio");
    for (name, run) in CASES {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let [jailed, open] = &mut rates;
            jailed.push(run(&mut ready(launch(CID))));
            open.push(run(&mut ready(launch_program(Path::new(&this), OPEN, CID))));
        }
        let [jailed, open] = rates.map(median);
        println!("{name}: {jailed:.0}, {open:.0}, {:.3}", jailed / open);
    }
}

fn ready((process, ready): (Process, handoff::Result<()>)) -> Process {
    ready.unwrap();
    process
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The device as its own program serves it, but for the jail.
fn serve() {
    let Launched {
        config,
        mut resources,
        answer,
    } = handoff::launched::<Config>().unwrap();
    let control = answer.ready().unwrap();
    let inbox = Arc::new(Inbox::new().unwrap());
    let (sender, _accepted) = sync_channel(1);
    let legacy = Legacy {
        journal: resources.take("journal").unwrap(),
        streams: Vec::new(),
    };
    let config = config.try_into().unwrap();
    let device = Vsock::new(config, Arc::clone(&inbox), sender, legacy).unwrap();
    let server = Server::new(device, resources.take("vhost-user").unwrap()).unwrap();
    let stopper = server.stopper();
    thread::spawn(move || {
        while let Ok(Some((request, fds))) = control.receive() {
            let Request::Connect(wanted) = request else {
                continue;
            };
            for stream in fds {
                inbox.connect(wanted, stream.into());
            }
        }
        stopper.stop();
    });
    server.serve().unwrap();
}

fn to_host(process: &mut Process) -> f64 {
    let mut guest = process.guest();
    let mut stream = process.connect(1);
    let (host_port, guest_port) = guest.accept();
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        let mut left = TOTAL;
        while left > 0 {
            left -= stream.read(&mut buffer).unwrap();
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
        left -= chunk.len();
    }
    reading.join().unwrap();
    TOTAL as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn to_guest(process: &mut Process) -> f64 {
    let mut guest = process.guest();
    let mut stream = process.connect(1);
    let (host_port, guest_port) = guest.accept();
    let start = Instant::now();
    let writing = thread::spawn(move || {
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
        left -= data.len();
    }
    writing.join().unwrap();
    TOTAL as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn round_trips(process: &mut Process) -> f64 {
    let mut guest: Guest = process.guest();
    let mut stream = process.connect(1);
    let (host_port, guest_port) = guest.accept();
    let start = Instant::now();
    for _ in 0..ROUND_TRIPS {
        stream.write_all(b"ping").unwrap();
        let (_, data) = guest.expect(Op::Data);
        guest.consumed(host_port, guest_port, data.len());
        guest.send_data(host_port, guest_port, &data);
        stream.read_exact(&mut [0; 4]).unwrap();
    }
    f64::from(ROUND_TRIPS) / start.elapsed().as_secs_f64()
}
