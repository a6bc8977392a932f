//! Requests and bytes a second through real rings, without a VM: `cargo bench -p dev-fs`.
//! Prints one line a case: what, requests in flight, rate.

#![expect(clippy::print_stdout, reason = "the result")]

mod load;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::time::{Duration, Instant};

use load::Load;
use support::Device;
use support::fuse::{self, ROOT};

fn main() {
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("file"), vec![7; 64 << 20]).unwrap();
    for depth in [1, 16] {
        let mut device = Device::start(share.path(), "");
        let inode = device.lookup(ROOT, "file").unwrap().inode;
        let names = vec![fuse::name("file"); depth];
        let rate = Load::new(&mut device, fuse::LOOKUP, ROOT, &names, 128).run(&mut device);
        println!("lookup      depth {depth:2}: {rate:8.0} requests/s");
        let handle = device.open(inode, 0).unwrap();
        for size in [4096, 128 << 10] {
            let bodies: Vec<_> = (0..depth as u64)
                .map(|n| fuse::transfer(handle, n * u64::from(size), size))
                .collect();
            let load = Load::new(&mut device, fuse::READ, inode, &bodies, size as usize);
            let rate = load.run(&mut device);
            let bytes = rate * f64::from(size) / f64::from(1 << 20);
            println!("read {size:6} depth {depth:2}: {rate:8.0} requests/s {bytes:6.0} MiB/s");
        }
    }
    println!("mkdir and rmdir, lookup between: {:8.0} each/s", changes());
    for files in [0, 1000, 10_000] {
        println!(
            "killed with {files:5} files known: {:6.1} ms",
            recovery(files)
        );
    }
}

/// Milliseconds from a death to the next answer, when the guest knows so many files; the median of nine.
fn recovery(files: usize) -> f64 {
    let share = tempfile::tempdir().unwrap();
    let mut device = Device::start(share.path(), "");
    for file in 0..files {
        let name = file.to_string();
        fs::write(share.path().join(&name), "").unwrap();
        device.lookup(ROOT, &name).unwrap();
    }
    let mut times: Vec<_> = (0..9)
        .map(|_| {
            let begin = Instant::now();
            device.replace(share.path(), "");
            device.attributes(ROOT).unwrap();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[4].as_secs_f64() * 1000.0
}

/// How often in a second a directory is made, looked up and removed.
fn changes() -> f64 {
    let share = tempfile::tempdir().unwrap();
    let mut device = Device::start(share.path(), "");
    let begin = Instant::now();
    let mut count = 0.0;
    while begin.elapsed() < Duration::from_secs(3) {
        for _ in 0..100 {
            device.mkdir(ROOT, "directory", 0o755).unwrap();
            device.lookup(ROOT, "directory").unwrap();
            device.rmdir(ROOT, "directory").unwrap();
        }
        count += 100.0;
    }
    count / begin.elapsed().as_secs_f64()
}
