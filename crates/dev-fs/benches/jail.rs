//! What the jail costs: the same requests to a device in its jail and to one without, in turn.
//!
//! ```text
//! cargo build --release -p dev-fs --examples && cargo bench -p dev-fs --bench jail
//! ```

#![expect(clippy::print_stdout, reason = "the result")]

mod load;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;

use load::Load;
use support::Device;
use support::fuse::{self, ROOT};

const ROUNDS: usize = 5;
const FILES: u32 = 4096;

/// Requests a second, of one kind.
type Case = (&'static str, fn(&mut Device) -> f64);

const CASES: [Case; 4] = [
    ("lookup, one at a time", |device| lookup(device, 1)),
    ("lookup, 16 at a time", |device| lookup(device, 16)),
    ("read of 4 KiB, 16 at a time", |device| read(device, 4096)),
    ("read of 128 KiB, 16 at a time", |device| {
        read(device, 128 << 10)
    }),
];

fn main() {
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("file"), vec![7; 64 << 20]).unwrap();
    println!("requests/s, median of {ROUNDS}: jailed, not jailed, ratio");
    for (name, run) in CASES {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let [jailed, free] = &mut rates;
            jailed.push(run(&mut start(share.path(), true)));
            free.push(run(&mut start(share.path(), false)));
        }
        let [jailed, free] = rates.map(median);
        println!("{name}: {jailed:.0}, {free:.0}, {:.3}", jailed / free);
    }
}

fn start(share: &Path, jailed: bool) -> Device {
    let words = "";
    if jailed {
        Device::start(share, words)
    } else {
        Device::start_unjailed(share, words, FILES)
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn lookup(device: &mut Device, depth: usize) -> f64 {
    let names = vec![fuse::name("file"); depth];
    Load::new(device, fuse::LOOKUP, ROOT, &names, 128).run(device)
}

fn read(device: &mut Device, size: u32) -> f64 {
    let inode = device.lookup(ROOT, "file").unwrap().inode;
    let handle = device.open(inode, 0).unwrap();
    let bodies: Vec<_> = (0..16)
        .map(|n| fuse::transfer(handle, n * u64::from(size), size))
        .collect();
    Load::new(device, fuse::READ, inode, &bodies, size as usize).run(device)
}
