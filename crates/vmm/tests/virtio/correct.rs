//! A driver and a back end that both follow their specifications.

use std::time::{Duration, Instant};

use pci::PciFunction;
use pci::virtio::NOTIFY_OFFSET;
use vm_memory::{Bytes, GuestAddress};

use crate::echo::Process;
use crate::guest::{BAR, Guest, HIGH};

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn the_guest_sees_the_features_that_work_through_us_and_no_others() {
    let (_process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    assert_eq!(guest.features(), 1 << 32 | 1 << 29 | 1 << 28 | 1);
    assert_eq!(guest.status(), 0);
}

#[test]
fn a_request_goes_from_doorbell_to_interrupt_past_the_transport() {
    let (process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    guest.bring_up();
    assert_eq!(guest.status(), 0xf);
    assert_eq!(process.device.lock().unwrap().accepted, 1 << 32 | 1 << 30);
    assert_eq!(
        guest.host.doorbells(),
        [0, 4].map(|at| BAR + NOTIFY_OFFSET + at)
    );
    for _ in 0..40 {
        assert_eq!(guest.request(0), 0x41);
        assert_eq!(guest.request(1), 0x42);
    }
    assert!(guest.events.try_recv().is_err());
}

#[test]
fn a_notification_through_the_registers_reaches_the_back_end_too() {
    let (_process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    guest.bring_up();
    guest.offer(1, b"slow");
    guest.write(NOTIFY_OFFSET + 4, &[1, 0]);
    assert_eq!(guest.interrupt(2), Some(0x42));
    assert!(guest.answer(1, 4).is_some());
}

#[test]
fn a_masked_vector_pends_visibly_and_is_delivered_on_unmask() {
    let (_process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    guest.bring_up();
    guest.write(0x4000 + 16 + 12, &[1, 0, 0, 0]);
    assert_eq!(guest.read::<1>(0x7000), [0]);
    guest.offer(0, b"quiet");
    assert!(guest.ring(0));
    assert!(guest.no_interrupt(1));
    let end = Instant::now() + Duration::from_secs(5);
    while guest.read::<1>(0x7000) != [0b010] {
        assert!(Instant::now() < end, "the pending bit");
    }
    guest.write(0x4000 + 16 + 12, &[0, 0, 0, 0]);
    assert_eq!(guest.interrupt(1), Some(0x41));
    assert_eq!(guest.read::<1>(0x7000), [0]);
}

#[test]
fn a_queue_follows_its_vector() {
    let (_process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    guest.bring_up();
    guest.write(0x16, &[0, 0]);
    guest.write(0x1a, &[2, 0]);
    guest.offer(0, b"moved");
    assert!(guest.ring(0));
    assert_eq!(guest.interrupt(2), Some(0x42));
    guest.write(0x1a, &[0xff, 0xff]);
    guest.offer(0, b"nobody");
    assert!(guest.ring(0));
    assert!(guest.no_interrupt(1) && guest.no_interrupt(2));
    assert!(guest.answer(0, 6).is_some());
}

#[test]
fn doorbells_follow_the_bar() {
    let (_process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    guest.bring_up();
    guest.function.write_config(4, &[0, 0]);
    assert_eq!(guest.host.doorbells(), [0; 0]);
    guest
        .function
        .write_config(0x10, &(BAR + 0x8000).to_le_bytes());
    guest.function.write_config(4, &[6, 0]);
    assert_eq!(
        guest.host.doorbells(),
        [0, 4].map(|at| BAR + 0x8000 + NOTIFY_OFFSET + at)
    );
    guest.offer(0, b"there");
    assert!(guest.host.ring(BAR + 0x8000 + NOTIFY_OFFSET));
    assert_eq!(guest.interrupt(1), Some(0x41));
}

#[test]
fn a_device_can_be_reset_and_used_again() {
    let (process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    for round in 1..4 {
        guest.bring_up();
        assert_eq!(guest.request(0), 0x41);
        assert_eq!(guest.request(1), 0x42);
        guest.set_status(0);
        assert_eq!(guest.status(), 0);
        assert_eq!(guest.host.doorbells(), [0; 0]);
        assert_eq!(process.device.lock().unwrap().resets, round);
    }
    assert!(guest.events.try_recv().is_err());
}

#[test]
fn after_a_reset_the_back_end_leaves_the_rings_alone() {
    let (_process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    guest.bring_up();
    guest.request(1);
    guest.set_status(0);
    guest.offer(1, b"after");
    guest.write(NOTIFY_OFFSET + 4, &[1, 0]);
    assert!(!guest.ring(1));
    std::thread::sleep(Duration::from_millis(50));
    let used: u16 = guest.memory.read_obj(GuestAddress(HIGH + 0x2002)).unwrap();
    assert_eq!(used, 1);
}

#[test]
fn config_space_is_the_back_ends_and_ends_with_it() {
    let (_process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    assert_eq!(&guest.read::<8>(0x2000), b"cid-none");
    assert_eq!(&guest.read::<8>(0x2004), b"none\0\0\0\0");
    assert_eq!(guest.read::<8>(0x2ff8), [0; 8]);
    guest.write(0x2001, b"ow");
    assert_eq!(
        &guest.read::<8>(0x2000),
        b"cow-non\xee",
        "read again after a write"
    );
    guest.write(0x2007, b"xx");
    guest.write(0x2ffc, b"xxxx");
    assert_eq!(&guest.read::<8>(0x2000), b"cow-non\xee", "past the end");
    assert!(guest.events.try_recv().is_err());
}
