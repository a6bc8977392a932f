//! Requests and bytes a second through real rings, without a VM: `cargo bench -p dev-fs`.
//! Prints one line a case: what, requests in flight, rate.

#![expect(clippy::print_stdout, reason = "the result")]

mod load;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;

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
}
