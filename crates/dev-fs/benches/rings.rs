//! Requests and bytes a second through real rings, without a VM: `cargo bench -p dev-fs`.
//! Prints one line a case: what, threads of the device, requests in flight, rate.

#![expect(clippy::print_stdout, reason = "the result")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::fuse::{self, ROOT};
use support::{Device, REQUESTS};
use vq_driver::Buffer;

const ENOUGH: Duration = Duration::from_secs(2);

/// One kind of request, ready in guest memory as many times as are in flight.
struct Load {
    chains: Vec<[Buffer; 2]>,
}

impl Load {
    fn new(device: &mut Device, opcode: u32, inode: u64, bodies: &[Vec<u8>], room: usize) -> Self {
        let chains = bodies.iter().map(|body| {
            let mut bytes = device.header(opcode, inode, body.len());
            bytes.extend(body);
            let memory = &device.driver.memory;
            let request = memory.allocate(bytes.len()).unwrap();
            memory.write(request, &bytes).unwrap();
            let answer = memory.allocate(room + 16).unwrap();
            let length = |bytes: usize| u32::try_from(bytes).unwrap();
            [
                Buffer::readable(request, length(bytes.len())),
                Buffer::writable(answer, length(room + 16)),
            ]
        });
        Self {
            chains: chains.collect(),
        }
    }

    /// Requests a second.
    fn run(&self, device: &mut Device) -> f64 {
        let queue = &mut device.driver.queues[REQUESTS];
        let mut by_head = std::collections::HashMap::new();
        for chain in &self.chains {
            by_head.insert(queue.add_indirect(chain).unwrap(), chain);
        }
        queue.kick().unwrap();
        let start = Instant::now();
        let mut done = 0u32;
        while start.elapsed() < ENOUGH {
            let mut used = Some(queue.wait(support::PATIENCE).unwrap());
            while let Some(this) = used {
                done += 1;
                let chain = by_head.remove(&this.head).unwrap();
                by_head.insert(queue.add_indirect(chain).unwrap(), chain);
                used = queue.used().unwrap();
            }
            queue.kick().unwrap();
        }
        let rate = f64::from(done) / start.elapsed().as_secs_f64();
        for _ in &self.chains {
            queue.wait(support::PATIENCE).unwrap();
        }
        rate
    }
}

fn main() {
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("file"), vec![7; 64 << 20]).unwrap();
    for threads in [0, 1, 2, 4] {
        for depth in [1, 16] {
            let mut device = Device::start(share.path(), &format!("threads={threads}"));
            let inode = device.lookup(ROOT, "file").unwrap().inode;
            let names = vec![fuse::name("file"); depth];
            let rate = Load::new(&mut device, fuse::LOOKUP, ROOT, &names, 128).run(&mut device);
            println!("lookup      threads {threads} depth {depth:2}: {rate:8.0} requests/s");
            let handle = device.open(inode, 0).unwrap();
            for size in [4096, 128 << 10] {
                let bodies: Vec<_> = (0..depth as u64)
                    .map(|n| fuse::transfer(handle, n * u64::from(size), size))
                    .collect();
                let load = Load::new(&mut device, fuse::READ, inode, &bodies, size as usize);
                let rate = load.run(&mut device);
                let bytes = rate * f64::from(size) / f64::from(1 << 20);
                println!(
                    "read {size:6} threads {threads} depth {depth:2}: {rate:8.0} requests/s {bytes:6.0} MiB/s"
                );
            }
        }
    }
}
