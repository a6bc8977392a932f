//! The driver's half against a device's half of a few lines, in the same memory.

use std::sync::Arc;
use std::time::Duration;

use vq_driver::{BASE, Buffer, Error, F_INDIRECT, F_NEXT, F_WRITE, Memory, Queue};

const SIZE: u16 = 8;

struct Device {
    memory: Arc<Memory>,
    descriptors: u64,
    available: u64,
    used: u64,
}

impl Device {
    fn new(memory: &Arc<Memory>, queue: &Queue) -> Self {
        let address = queue.address();
        let guest = |at: u64| at - memory.user_address() + BASE;
        Self {
            memory: Arc::clone(memory),
            descriptors: guest(address.descriptors),
            available: guest(address.available),
            used: guest(address.used),
        }
    }

    fn available_index(&self) -> u16 {
        self.memory.load(self.available + 2).unwrap()
    }

    fn head(&self, at: u16) -> u16 {
        self.memory
            .load(self.available + 4 + u64::from(at % SIZE) * 2)
            .unwrap()
    }

    /// Address, length, flags, next.
    fn descriptor(&self, table: u64, index: u16) -> (u64, u32, u16, u16) {
        let mut bytes = [0; 16];
        self.memory
            .read(table + u64::from(index) * 16, &mut bytes)
            .unwrap();
        (
            u64::from_le_bytes(bytes[..8].try_into().unwrap()),
            u32::from_le_bytes(bytes[8..12].try_into().unwrap()),
            u16::from_le_bytes(bytes[12..14].try_into().unwrap()),
            u16::from_le_bytes(bytes[14..].try_into().unwrap()),
        )
    }

    fn give_back(&self, head: u32, written: u32) {
        let index = self.memory.load(self.used + 2).unwrap();
        let slot = self.used + 4 + u64::from(index % SIZE) * 8;
        self.memory.write(slot, &head.to_le_bytes()).unwrap();
        self.memory.write(slot + 4, &written.to_le_bytes()).unwrap();
        self.memory
            .store(self.used + 2, index.wrapping_add(1))
            .unwrap();
    }

    fn set_kick_event(&self, index: u16) {
        self.memory
            .store(self.used + 4 + u64::from(SIZE) * 8, index)
            .unwrap();
    }
}

fn pair(event_index: bool) -> (Queue, Device) {
    let memory = Arc::new(Memory::new(1 << 20).unwrap());
    let queue = Queue::new(Arc::clone(&memory), SIZE, event_index).unwrap();
    let device = Device::new(&memory, &queue);
    (queue, device)
}

#[test]
fn a_chain_is_laid_out_as_the_specification_says() {
    let (mut queue, device) = pair(false);
    let head = queue
        .add(&[Buffer::readable(0x1000, 7), Buffer::writable(0x2000, 9)])
        .unwrap();
    assert_eq!((device.available_index(), device.head(0)), (1, head));
    let (address, length, flags, next) = device.descriptor(device.descriptors, head);
    assert_eq!((address, length, flags), (0x1000, 7, F_NEXT));
    let (address, length, flags, _) = device.descriptor(device.descriptors, next);
    assert_eq!((address, length, flags), (0x2000, 9, F_WRITE));
}

#[test]
fn an_indirect_chain_takes_one_descriptor() {
    let (mut queue, device) = pair(false);
    let head = queue
        .add_indirect(&[Buffer::readable(0x1000, 7), Buffer::writable(0x2000, 9)])
        .unwrap();
    assert_eq!(queue.room(), usize::from(SIZE) - 1);
    let (table, length, flags, _) = device.descriptor(device.descriptors, head);
    assert_eq!((length, flags), (32, F_INDIRECT));
    assert_eq!(device.descriptor(table, 0), (0x1000, 7, F_NEXT, 1));
    assert_eq!(device.descriptor(table, 1), (0x2000, 9, F_WRITE, 0));
}

#[test]
fn descriptors_come_back_however_often_the_indexes_wrap() {
    let (mut queue, device) = pair(true);
    for round in 0..70_000u32 {
        let head = queue.add(&[Buffer::readable(0x1000, 1); 3]).unwrap();
        assert_eq!(device.head(queue.available_index().wrapping_sub(1)), head);
        device.give_back(head.into(), round);
        let used = queue.used().unwrap().unwrap();
        assert_eq!((used.head, used.written), (head, round));
        assert_eq!(queue.room(), usize::from(SIZE));
    }
}

#[test]
fn a_full_queue_takes_no_more() {
    let (mut queue, _) = pair(false);
    for _ in 0..SIZE {
        queue.add(&[Buffer::readable(0x1000, 1)]).unwrap();
    }
    assert!(matches!(
        queue.add(&[Buffer::readable(0x1000, 1)]),
        Err(Error::Full)
    ));
    assert!(matches!(queue.add(&[]), Err(Error::Full)));
}

#[test]
fn a_head_that_is_not_in_flight_is_an_error() {
    let (mut queue, device) = pair(false);
    let head = queue.add(&[Buffer::readable(0x1000, 1)]).unwrap();
    device.give_back(u32::from(head) + 1, 0);
    assert!(matches!(queue.used(), Err(Error::Head(_))));
    device.give_back(70_000, 0);
    assert!(matches!(queue.used(), Err(Error::Head(70_000))));
}

#[test]
fn kicks_follow_the_event_index() {
    let (mut queue, device) = pair(true);
    device.set_kick_event(2);
    for _ in 0..4 {
        queue.add(&[Buffer::readable(0x1000, 1)]).unwrap();
        queue.kick().unwrap();
    }
    // Only the third, which makes index 2 available.
    assert_eq!(queue.kicks, 1);
}

#[test]
fn kicks_follow_the_flag_without_the_event_index() {
    let (mut queue, device) = pair(false);
    device.memory.store(device.used, 1).unwrap();
    queue.add(&[Buffer::readable(0x1000, 1)]).unwrap();
    queue.kick().unwrap();
    assert_eq!(queue.kicks, 0);
    device.memory.store(device.used, 0).unwrap();
    queue.kick().unwrap();
    assert_eq!(queue.kicks, 1);
}

#[test]
fn waiting_for_a_device_that_does_nothing_ends() {
    let (mut queue, _) = pair(true);
    assert!(matches!(
        queue.wait(Duration::from_millis(10)),
        Err(Error::Timeout)
    ));
}

#[test]
fn memory_outside_of_the_region_is_refused() {
    let memory = Memory::new(4096).unwrap();
    for (address, length) in [
        (0, 1),
        (BASE - 1, 1),
        (BASE + 4095, 2),
        (BASE + 4096, 1),
        (u64::MAX, 2),
    ] {
        assert!(
            memory.read(address, &mut vec![0; length]).is_err(),
            "{address:#x}"
        );
        assert!(
            memory.write(address, &vec![0; length]).is_err(),
            "{address:#x}"
        );
    }
    assert!(memory.load(BASE + 1).is_err());
    assert!(memory.allocate(4097).is_err());
    assert!(Memory::new(0).is_err());
}
