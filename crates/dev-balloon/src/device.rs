//! The device: a queue of free pages, and two that it needs no chain of.

use device::serve::{Device, Event, Queue};

/// `VIRTIO_BALLOON_F_REPORTING` (virtio 1.2, section 5.5.3).
const REPORTING: u64 = 1 << 5;

/// inflateq and deflateq, and what is numbered behind them if no other feature is offered:
/// `reporting_vq` (section 5.5.2). Linux wants at least 32 entries there.
const QUEUE_SIZE: u16 = 128;
const REPORTING_QUEUE: usize = 2;

/// `struct virtio_balloon_config` (section 5.5.4): no pages are asked for.
const CONFIG_SIZE: usize = 16;

/// Chains taken from a queue before other events have their turn.
const TURN: usize = 128;

/// A virtio balloon device.
pub struct Balloon;

/// Takes what is in a queue; whether there may be more.
fn serve(queue: &mut Queue<'_>, reports: bool) -> bool {
    let memory = queue.memory();
    for _ in 0..TURN {
        let Some(chain) = queue.pop() else {
            return false;
        };
        if reports {
            // Pages that cannot be given back stay as they are, which the guest need not know.
            let _ = chain.discard(&memory);
        }
        queue.push(&chain, 0);
    }
    true
}

impl Device for Balloon {
    fn features(&self) -> u64 {
        REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; REPORTING_QUEUE.saturating_add(1)]
    }

    fn config(&self) -> Vec<u8> {
        vec![0; CONFIG_SIZE]
    }

    fn reset(&mut self) {}

    fn process(&mut self, _event: Event, queues: &mut [Queue<'_>]) -> bool {
        let mut unfinished = false;
        for (index, queue) in queues.iter_mut().enumerate() {
            unfinished |= serve(queue, index == REPORTING_QUEUE);
        }
        unfinished
    }
}
