//! Back ends that take the place of others while a driver is at work.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pci::virtio::NOTIFY_OFFSET;
use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use wire::vmm::Event;

use crate::echo::{FEATURES, Process};
use crate::guest::{BAR, Guest};
use crate::liar::{self, Answer, GET_FEATURES};

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

/// A guest at work, whose back end has just died.
fn bereft() -> Guest {
    let (process, socket) = Process::start();
    let mut guest = Guest::replaceable(socket, LIMIT);
    guest.bring_up();
    assert_eq!(guest.request(0), 0x41);
    assert_eq!(guest.request(1), 0x42);
    drop(process);
    let (life, reason) = guest.loss();
    assert_eq!(life, 0);
    assert!(reason.contains("closed the connection"), "{reason}");
    guest
}

/// Gives the guest a back end that works.
fn mend(guest: &Guest, life: u32) -> Process {
    let (process, socket) = Process::start();
    guest.replacement.connect(socket, life);
    process
}

/// Waits until the guest's last request of 5 bytes has been answered.
#[track_caller]
fn wait_for_answer(guest: &Guest, queue: u16) {
    let end = Instant::now() + LIMIT;
    while guest.answer(queue, 5).is_none() {
        assert!(Instant::now() < end, "no answer");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Interrupts that came with a new back end, whether there was something to say or not.
fn forget_interrupts(guest: &Guest) {
    for vector in [1, 2] {
        assert!(guest.interrupt(vector).is_some(), "vector {vector}");
    }
}

#[test]
fn a_new_back_end_goes_on_where_the_old_one_ended() {
    let mut guest = bereft();
    guest.offer(0, b"hello");
    assert!(guest.ring(0), "the doorbells hang");
    let process = mend(&guest, 1);
    forget_interrupts(&guest);
    let device = || process.device.lock().unwrap();
    assert_eq!(device().accepted, 1 << 32 | 1 << 30);
    wait_for_answer(&guest, 0);
    let _ = guest.host.interrupt_within(1, SHORT);
    for _ in 0..20 {
        assert_eq!(guest.request(0), 0x41);
        assert_eq!(guest.request(1), 0x42);
    }
    assert_eq!(guest.status(), 0xf, "the driver hears of nothing");
    assert!(guest.events.try_recv().is_err());
}

#[test]
fn a_notification_that_a_dead_back_end_swallowed_is_made_up_for() {
    let mut guest = bereft();
    guest.offer(1, b"hello");
    let _process = mend(&guest, 1);
    forget_interrupts(&guest);
    wait_for_answer(&guest, 1);
}

#[test]
fn back_ends_may_follow_each_other_many_times() {
    let mut guest = bereft();
    for life in 1..8 {
        let process = mend(&guest, life);
        forget_interrupts(&guest);
        assert_eq!(guest.request(0), 0x41);
        drop(process);
        assert_eq!(guest.loss().0, life);
    }
    assert_eq!(guest.status(), 0xf);
}

#[test]
fn a_driver_that_starts_again_while_there_is_no_back_end_finds_the_next() {
    let mut guest = bereft();
    assert_eq!(guest.features(), 1 << 32 | 1 << 29 | 1 << 28 | 1);
    guest.set_status(0);
    assert_eq!(guest.status(), 0);
    guest.bring_up();
    assert_eq!(guest.status(), 0xf);
    guest.offer(0, b"hello");
    assert!(guest.ring(0));
    let process = mend(&guest, 1);
    forget_interrupts(&guest);
    assert_eq!(guest.request(1), 0x42);
    assert_eq!(process.device.lock().unwrap().resets, 0);
}

#[test]
fn a_driver_that_resets_meanwhile_keeps_its_rings_from_the_next() {
    let mut guest = bereft();
    guest.set_status(0);
    let process = mend(&guest, 1);
    guest.offer(0, b"after");
    assert!(!guest.ring(0));
    guest.write(NOTIFY_OFFSET, &[0, 0]);
    assert!(guest.no_interrupt(1));
    assert_eq!(process.device.lock().unwrap().accepted, 0);
    guest.bring_up();
    assert_eq!(guest.request(0), 0x41);
    assert!(guest.events.try_recv().is_err());
}

#[test]
fn a_vector_that_moves_meanwhile_is_the_one_that_the_next_signals() {
    let mut guest = bereft();
    guest.write(0x16, &[0, 0]);
    guest.write(0x1a, &[2, 0]);
    let _process = mend(&guest, 1);
    assert_eq!(guest.interrupt(2), Some(0x42));
    let _ = guest.host.interrupt_within(2, SHORT);
    guest.offer(0, b"moved");
    assert!(guest.ring(0));
    assert_eq!(guest.interrupt(2), Some(0x42));
    assert!(guest.no_interrupt(1));
}

#[test]
fn doorbells_follow_the_bar_while_there_is_no_back_end() {
    use pci::PciFunction;
    let mut guest = bereft();
    guest.function.write_config(4, &[0, 0]);
    assert_eq!(guest.host.doorbells(), [0; 0]);
    let moved = BAR + 0x8000;
    guest.function.write_config(0x10, &moved.to_le_bytes());
    guest.function.write_config(4, &[6, 0]);
    guest.offer(0, b"hello");
    assert!(guest.host.ring(moved + NOTIFY_OFFSET));
    let _process = mend(&guest, 1);
    forget_interrupts(&guest);
}

#[test]
fn config_space_is_there_without_a_back_end_and_cannot_be_written() {
    let mut guest = bereft();
    assert_eq!(&guest.read::<8>(0x2000), b"cid-none");
    guest.write(0x2000, b"x");
    assert_eq!(&guest.read::<8>(0x2000), b"cid-none");
    let _process = mend(&guest, 1);
    forget_interrupts(&guest);
    guest.write(0x2000, b"x");
    assert_eq!(&guest.read::<8>(0x2000), b"xid-non\xee");
}

#[test]
fn a_back_end_that_dies_before_its_handshake_is_replaced_while_the_driver_waits() {
    let mut guest = Guest::replaceable(liar::start(|_| Answer::HangUp), LIMIT);
    assert_eq!(guest.loss().0, 0);
    let replacement = Arc::clone(&guest.replacement);
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        let (process, socket) = Process::start();
        replacement.connect(socket, 1);
        process
    });
    assert_ne!(guest.features(), 0, "it waits for the next");
    let _process = later.join().unwrap();
    guest.bring_up();
    assert_eq!(guest.request(0), 0x41);
}

#[test]
fn a_new_back_end_that_fails_at_any_step_is_lost_as_well_and_the_next_one_works() {
    let mut guest = bereft();
    let mut life = 0;
    // The handshake's requests, then those that tell it what was agreed on.
    for request in [GET_FEATURES, 15, 17, 24, 3, 2, 5, 8, 9, 10, 12, 13, 18] {
        life += 1;
        let answer = move |asked| {
            if asked == request {
                Answer::HangUp
            } else {
                Answer::Correctly
            }
        };
        guest.replacement.connect(liar::start(answer), life);
        let (lost, reason) = guest.loss();
        assert_eq!(lost, life, "request {request}: {reason}");
    }
    let _process = mend(&guest, life + 1);
    forget_interrupts(&guest);
    assert_eq!(guest.request(0), 0x41);
    assert_eq!(guest.status(), 0xf);
}

#[test]
fn a_new_back_end_that_is_silent_is_given_up_at_the_time_limit() {
    let (process, socket) = Process::start();
    let mut guest = Guest::replaceable(socket, SHORT);
    guest.bring_up();
    drop(process);
    guest.loss();
    // GET_FEATURES, SET_MEM_TABLE.
    for (life, request) in [(1, 1), (2, 5)] {
        let answer = move |asked| {
            if asked == request {
                Answer::Silence
            } else {
                Answer::Correctly
            }
        };
        let begin = Instant::now();
        guest.replacement.connect(liar::start(answer), life);
        assert!(guest.loss().1.contains("did not answer within 200ms"));
        guest.set_status(0);
        guest.bring_up();
        assert!(begin.elapsed() < SHORT * 5, "no vCPU waits for longer");
        assert_eq!(guest.status(), 0xf);
    }
}

#[test]
fn a_back_end_that_falls_silent_is_lost_when_it_is_asked() {
    let mut asked = 0;
    let answer = move |request| {
        asked += u32::from(request == GET_FEATURES);
        if asked > 1 {
            Answer::Silence
        } else {
            Answer::Correctly
        }
    };
    let mut guest = Guest::replaceable(liar::start(answer), SHORT);
    guest.bring_up();
    guest.replacement.check();
    let (life, reason) = guest.loss();
    assert_eq!(life, 0);
    assert!(reason.contains("did not answer within 200ms"), "{reason}");
    // There is nobody to be asked.
    guest.replacement.check();
    let _process = mend(&guest, 1);
    forget_interrupts(&guest);
    // One that answers is left alone.
    guest.replacement.check();
    assert_eq!(guest.request(0), 0x41);
}

#[test]
fn a_new_back_end_that_offers_less_is_refused_with_the_reason() {
    let guest = bereft();
    let less = || Answer::Body((FEATURES & !1).to_le_bytes().to_vec());
    let answer = move |asked| {
        if asked == GET_FEATURES {
            less()
        } else {
            Answer::Correctly
        }
    };
    guest.replacement.connect(liar::start(answer), 1);
    let (_, reason) = guest.loss();
    assert!(reason.contains("does not offer what"), "{reason}");
    let _process = mend(&guest, 2);
    forget_interrupts(&guest);
}

#[test]
fn the_end_of_a_back_end_does_not_count_against_its_successor() {
    // It does not look at its queues: two that do take each other's kicks away.
    let mut guest = Guest::replaceable(liar::start(|_| Answer::Correctly), LIMIT);
    guest.bring_up();
    let _process = mend(&guest, 1);
    forget_interrupts(&guest);
    assert_eq!(guest.request(0), 0x41);
    assert!(guest.events.recv_timeout(SHORT).is_err());
}

#[test]
fn a_device_that_is_not_replaceable_takes_no_other() {
    let (process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    guest.bring_up();
    let (other, socket) = Process::start();
    guest.replacement.connect(socket, 1);
    assert_eq!(guest.request(0), 0x41, "the first one serves");
    drop(process);
    assert!(guest.failure().contains("closed the connection"));
    guest.replacement.connect(UnixStream::pair().unwrap().0, 2);
    assert_eq!(guest.status(), 0x4f);
    assert!(guest.events.try_recv().is_err());
    drop(other);
}

#[test]
fn a_used_ring_that_says_nonsense_costs_the_guest_alone() {
    let mut guest = bereft();
    for (life, index) in [(1, 0x1234u16), (2, u16::MAX)] {
        let used = GuestAddress(0x1_2002);
        guest.memory.write_obj(index, used).unwrap();
        let liar = liar::start(|_| Answer::Correctly);
        guest.replacement.connect(liar, life);
        forget_interrupts(&guest);
        guest.set_status(0);
        assert_eq!(guest.status(), 0);
        guest.bring_up();
    }
    let _process = mend(&guest, 3);
    forget_interrupts(&guest);
    assert_eq!(guest.request(0), 0x41);
    assert!(guest.events.try_recv().is_err());
}

#[test]
fn dropping_a_device_that_waits_for_a_back_end_is_no_failure() {
    let guest = bereft();
    guest
        .replacement
        .connect(liar::start(|_| Answer::Silence), 1);
    let Guest {
        function,
        events,
        replacement,
        ..
    } = guest;
    let begin = Instant::now();
    drop(function);
    assert!(begin.elapsed() < LIMIT / 2);
    let (_process, socket) = Process::start();
    replacement.connect(socket, 2);
    assert!(events.recv_timeout(SHORT).is_err());
}

/// What happens to a device.
#[derive(Debug, Clone)]
enum Step {
    /// The driver resets it.
    Reset,
    /// The driver brings it up.
    BringUp,
    /// The driver makes a request, and does not wait for an answer.
    Ask,
    /// The driver moves an interrupt.
    Vector(u8),
    /// Another back end, which fails at this request.
    Liar(u32),
    /// Another back end, which works.
    Echo,
    /// The back end dies, if it works.
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Reset),
        Just(Step::BringUp),
        Just(Step::Ask),
        (0..3u8).prop_map(Step::Vector),
        (1..25u32).prop_map(Step::Liar),
        Just(Step::Echo),
        Just(Step::Die),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_happened_before_a_driver_and_a_back_end_find_each_other(
        steps in vec(step(), 0..14),
    ) {
        let (process, socket) = Process::start();
        let mut guest = Guest::replaceable(socket, LIMIT);
        prop_assert!(guest.features() != 0);
        let mut process = Some(process);
        let mut life = 0;
        for step in steps {
            match step {
                Step::Reset => guest.set_status(0),
                Step::BringUp => {
                    guest.set_status(0);
                    guest.bring_up();
                }
                Step::Ask => {
                    guest.offer(0, b"hello");
                    guest.ring(0);
                }
                Step::Vector(vector) => {
                    guest.write(0x16, &[0, 0]);
                    guest.write(0x1a, &[vector, 0]);
                }
                Step::Liar(request) => {
                    life += 1;
                    let answer = move |asked| if asked == request {
                        Answer::HangUp
                    } else {
                        Answer::Correctly
                    };
                    guest.replacement.connect(liar::start(answer), life);
                    process = None;
                }
                Step::Echo => {
                    life += 1;
                    process = Some(mend(&guest, life));
                }
                Step::Die => process = None,
            }
            prop_assert_eq!(guest.status() & 0x40, 0, "no reset is needed");
        }
        drop(process);
        guest.set_status(0);
        guest.bring_up();
        let _process = mend(&guest, life + 1);
        // Interrupts of earlier ones may be on their way, so the answer is what counts.
        guest.offer(1, b"hello");
        guest.ring(1);
        wait_for_answer(&guest, 1);
        for event in guest.events.try_iter() {
            prop_assert!(matches!(event, Event::DeviceLost { .. }), "{event:?}");
        }
    }
}
