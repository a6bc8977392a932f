//! The device: two queues for each port, two for what is said of them.

use std::collections::VecDeque;
use std::io;

use device::serve::{Device, Event, Queue, Sources};

use crate::control::{self, Control, Size};
use crate::port::{Arrived, Port};

/// VIRTIO_CONSOLE_F_SIZE and VIRTIO_CONSOLE_F_MULTIPORT (virtio 1.2, section 5.3.3).
const F_SIZE: u64 = 1 << 0;
const F_MULTIPORT: u64 = 1 << 1;

/// The size of each queue, as QEMU has it.
const QUEUE_SIZE: u16 = 64;

/// The queues of control messages (virtio 1.2, section 5.3.2).
const TO_DRIVER: usize = 2;
const FROM_DRIVER: usize = 3;

/// Chains that are taken from a queue before others have their turn.
const TURN: usize = 128;

/// The most bytes of one chain of the guest's that are passed on.
const LONGEST_CHAIN: usize = 1 << 16;

/// A virtio console device.
pub struct Console {
    ports: Vec<Wired>,
}

/// A port, and what is on its way to the guest.
struct Wired {
    port: Port,
    /// What did not fit into the guest's buffer.
    held: VecDeque<u8>,
    /// A size that the driver has not been told.
    size: Option<Size>,
    /// Nobody will ever type there again.
    is_gone: bool,
}

impl Console {
    /// A device with these ports.
    #[must_use]
    pub fn new(ports: Vec<Port>) -> Self {
        let wired = |port| Wired {
            port,
            held: VecDeque::new(),
            size: None,
            is_gone: false,
        };
        Self {
            ports: ports.into_iter().map(wired).collect(),
        }
    }

    /// Answers what the driver says of the ports. What there is no room to answer waits in its queue.
    fn converse(&self, queues: &mut [Queue<'_>]) -> bool {
        let names: Vec<_> = self.ports.iter().map(|wired| wired.port.name()).collect();
        let Ok([to, from]) = queues.get_disjoint_mut([TO_DRIVER, FROM_DRIVER]) else {
            return false;
        };
        let memory = from.memory();
        for _ in 0..TURN {
            let Some(chain) = from.pop() else {
                return false;
            };
            let mut bytes = [0; Control::SIZE];
            let said = chain.readable(&memory);
            let answers = match said.map(|said| said.peek(&mut bytes)) {
                Some(Control::SIZE) => control::answers(Control::parse(bytes), &names),
                _ => Vec::new(),
            };
            if !tell(to, &answers) {
                from.unpop();
                return false;
            }
            from.push(&chain, 0);
        }
        true
    }
}

/// Sends the driver these messages; nothing is sent if there is not a buffer for each.
fn tell(queue: &mut Queue<'_>, messages: &[Vec<u8>]) -> bool {
    let memory = queue.memory();
    let mut chains = Vec::new();
    for _ in messages {
        match queue.pop() {
            Some(chain) => chains.push(chain),
            None => {
                chains.iter().for_each(|_| queue.unpop());
                return false;
            }
        }
    }
    for (chain, message) in chains.iter().zip(messages) {
        // A buffer that is too short gets the beginning, one that is none nothing.
        let filled = chain.writable(&memory).map(|mut to| to.fill(message));
        queue.push(chain, written(filled));
    }
    true
}

fn written(filled: Option<usize>) -> u32 {
    u32::try_from(filled.unwrap_or(0)).unwrap_or(u32::MAX)
}

/// The receive queue of a port; the transmit queue is the next.
const fn receive_queue(port: usize) -> usize {
    match port {
        0 => 0,
        _ => port.saturating_mul(2).saturating_add(2),
    }
}

impl Wired {
    /// Passes on what the guest wrote; whether there may be more.
    fn transmit(&self, queue: &mut Queue<'_>) -> bool {
        let memory = queue.memory();
        for _ in 0..TURN {
            let Some(chain) = queue.pop() else {
                return false;
            };
            if let Some(from) = chain.readable(&memory) {
                let mut bytes = vec![0; from.len().min(LONGEST_CHAIN)];
                let length = from.peek(&mut bytes);
                bytes.truncate(length);
                self.port.write(&bytes);
            }
            queue.push(&chain, 0);
        }
        true
    }

    /// Gives the guest what was typed; whether there may be more.
    fn receive(&mut self, queue: &mut Queue<'_>) -> bool {
        let memory = queue.memory();
        for _ in 0..TURN {
            let Some(chain) = queue.pop() else {
                return false;
            };
            self.listen();
            if self.held.is_empty() {
                queue.unpop();
                return false;
            }
            let filled = chain
                .writable(&memory)
                .map(|mut to| to.fill(self.held.make_contiguous()));
            queue.push(&chain, written(filled));
            self.held.drain(..filled.unwrap_or(0));
        }
        true
    }

    /// Takes messages until there is something to give the guest.
    fn listen(&mut self) {
        while self.held.is_empty() && !self.is_gone {
            match self.port.read() {
                Ok(Some(Arrived::Bytes(bytes))) => self.held.extend(bytes),
                Ok(Some(Arrived::Size(size))) => self.size = Some(size),
                Ok(None) => return,
                Err(_) => self.is_gone = true,
            }
        }
    }
}

impl Device for Console {
    fn features(&self) -> u64 {
        F_SIZE | F_MULTIPORT
    }

    fn queue_sizes(&self) -> Vec<u16> {
        // A port is two, and so is the talk about them.
        let queues = self.ports.len().saturating_add(1).saturating_mul(2);
        vec![QUEUE_SIZE; queues]
    }

    /// `struct virtio_console_config` (virtio 1.2, section 5.3.4).
    fn config(&self) -> Vec<u8> {
        // Sizes are told by messages.
        let (columns, rows) = (0_u16, 0_u16);
        let most_ports = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        let mut space = columns.to_le_bytes().to_vec();
        space.extend(rows.to_le_bytes());
        space.extend(most_ports.to_le_bytes());
        // emerg_wr, which is not offered.
        space.extend([0; 4]);
        space
    }

    fn attach(&mut self, sources: Sources) -> io::Result<()> {
        let mut ports = (0..).zip(&self.ports);
        ports.try_for_each(|(token, wired)| sources.add(wired.port.as_fd(), token))
    }

    fn reset(&mut self) {
        for wired in &mut self.ports {
            wired.held.clear();
        }
    }

    fn process(&mut self, _event: Event, queues: &mut [Queue<'_>]) -> bool {
        let mut unfinished = self.converse(queues);
        for (index, wired) in self.ports.iter_mut().enumerate() {
            let first = receive_queue(index);
            if let Some(queue) = queues.get_mut(first) {
                unfinished |= wired.receive(queue);
            }
            if let Some(queue) = queues.get_mut(first.saturating_add(1)) {
                unfinished |= wired.transmit(queue);
            }
            if let (Some(size), Some(queue)) = (wired.size, queues.get_mut(TO_DRIVER)) {
                let id = u32::try_from(index).unwrap_or(u32::MAX);
                if tell(queue, &[control::resize(id, size)]) {
                    wired.size = None;
                }
            }
        }
        unfinished
    }
}
