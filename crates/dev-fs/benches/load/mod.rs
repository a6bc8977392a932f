//! Requests over and over.

use std::time::{Duration, Instant};

use vq_driver::Buffer;

use crate::support::{Device, PATIENCE, REQUESTS};

const ENOUGH: Duration = Duration::from_secs(2);

/// One kind of request, ready in guest memory as many times as are in flight.
pub(crate) struct Load {
    chains: Vec<[Buffer; 2]>,
}

impl Load {
    pub(crate) fn new(
        device: &mut Device,
        opcode: u32,
        inode: u64,
        bodies: &[Vec<u8>],
        room: usize,
    ) -> Self {
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
    pub(crate) fn run(&self, device: &mut Device) -> f64 {
        let queue = &mut device.driver.queues[REQUESTS];
        let mut by_head = std::collections::HashMap::new();
        for chain in &self.chains {
            by_head.insert(queue.add_indirect(chain).unwrap(), chain);
        }
        queue.kick().unwrap();
        let start = Instant::now();
        let mut done = 0u32;
        while start.elapsed() < ENOUGH {
            let mut used = Some(queue.wait(PATIENCE).unwrap());
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
            queue.wait(PATIENCE).unwrap();
        }
        rate
    }
}
