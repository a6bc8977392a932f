//! Back ends and guests that do what they should not.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::echo::Process;
use crate::guest::{BAR, Guest};
use crate::liar::{self, Answer, GET_CONFIG, GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM};

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

/// A back end that answers one request in its own way; the reason for its failure.
fn reason(request: u32, answer: impl Fn() -> Answer + Send + 'static) -> String {
    let socket = liar::start(move |asked| {
        if asked == request {
            answer()
        } else {
            Answer::Correctly
        }
    });
    let begin = Instant::now();
    let mut guest = Guest::new(socket, SHORT);
    assert_eq!(guest.features(), 0, "a failed device offers nothing");
    assert!(
        begin.elapsed() < SHORT * 5,
        "the vCPU waits no longer than the limit"
    );
    let reason = guest.failure();
    assert!(!guest.negotiate(1 << 32), "no driver gets it to work");
    assert_eq!(guest.read::<8>(0x2000), [0; 8]);
    assert!(guest.events.try_recv().is_err(), "one failure is one event");
    reason
}

fn number(value: u64) -> Answer {
    Answer::Body(value.to_le_bytes().to_vec())
}

#[test]
fn the_liar_is_believed_as_long_as_it_does_not_lie() {
    let mut guest = Guest::new(liar::start(|_| Answer::Correctly), LIMIT);
    guest.bring_up();
    assert_eq!(guest.status(), 0xf);
    guest.set_status(0);
    assert_eq!(guest.status(), 0);
    assert!(guest.events.try_recv().is_err());
}

#[test]
fn silence_at_any_step_ends_at_the_time_limit() {
    for request in [
        GET_FEATURES,
        GET_PROTOCOL_FEATURES,
        GET_QUEUE_NUM,
        GET_CONFIG,
        3,
    ] {
        let reason = reason(request, || Answer::Silence);
        assert!(
            reason.contains("did not answer within 200ms"),
            "{request}: {reason}"
        );
    }
}

#[test]
fn end_of_file_at_any_step_is_a_failure_at_once() {
    for request in [
        GET_FEATURES,
        GET_PROTOCOL_FEATURES,
        GET_QUEUE_NUM,
        GET_CONFIG,
        3,
    ] {
        let reason = reason(request, || Answer::HangUp);
        let known = ["closed the connection", "did not accept"];
        assert!(
            known.iter().any(|text| reason.contains(text)),
            "{request}: {reason}"
        );
    }
}

#[test]
fn garbage_at_any_step_is_a_failure() {
    for request in [
        GET_FEATURES,
        GET_PROTOCOL_FEATURES,
        GET_QUEUE_NUM,
        GET_CONFIG,
        3,
    ] {
        for byte in [0x00, 0x05, 0xff] {
            reason(request, move || Answer::Raw(vec![byte; 4096]));
        }
    }
}

#[test]
fn a_config_space_of_another_size_is_refused() {
    for len in [0u32, 1, 7, 9, 64, 4096, u32::MAX] {
        let body = move || {
            let header = [0, len, 0].map(u32::to_le_bytes).concat();
            let sent = usize::try_from(len.min(4096)).unwrap();
            Answer::Body([header, vec![0x55; sent]].concat())
        };
        reason(GET_CONFIG, body);
    }
}

#[test]
fn a_device_of_too_few_queues_or_of_an_old_standard_is_refused_with_the_reason() {
    assert!(reason(GET_QUEUE_NUM, || number(1)).contains("has 1 queues"));
    assert!(reason(GET_FEATURES, || number(1 << 30)).contains("VIRTIO_F_VERSION_1"));
    reason(GET_QUEUE_NUM, || number(u64::MAX));
}

#[test]
fn a_refused_request_during_activation_ends_in_needs_reset() {
    // SET_MEM_TABLE, SET_VRING_NUM, _ADDR, _BASE, _KICK, _CALL, _ENABLE.
    for request in [5, 8, 9, 10, 12, 13, 18] {
        let answer = move |asked| {
            if asked == request {
                number(1)
            } else {
                Answer::Correctly
            }
        };
        let mut guest = Guest::new(liar::start(answer), LIMIT);
        guest.bring_up();
        assert_eq!(guest.status(), 0x4f, "request {request}");
        assert_eq!(guest.interrupt(0), Some(0x40), "the config interrupt");
        assert!(guest.failure().contains("did not accept"));
        assert_eq!(guest.host.doorbells(), [0; 0]);
        guest.set_status(0);
        assert_eq!(guest.status(), 0, "a reset is always possible");
    }
}

#[test]
fn silence_during_activation_or_reset_ends_at_the_time_limit() {
    // SET_VRING_ADDR, GET_VRING_BASE.
    for request in [9, 11] {
        let answer = move |asked| {
            if asked == request {
                Answer::Silence
            } else {
                Answer::Correctly
            }
        };
        let mut guest = Guest::new(liar::start(answer), SHORT);
        let begin = Instant::now();
        guest.bring_up();
        guest.set_status(0);
        assert!(begin.elapsed() < SHORT * 5);
        assert_eq!(guest.status(), 0);
        assert!(guest.failure().contains("did not answer within"));
        assert!(!guest.negotiate(1 << 32));
    }
}

#[test]
fn a_device_process_that_dies_is_noticed_and_the_driver_told() {
    let (process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    guest.bring_up();
    guest.request(0);
    drop(process);
    assert_eq!(guest.interrupt(0), Some(0x40), "the config interrupt");
    assert_eq!(guest.status(), 0x4f);
    assert_eq!(guest.read::<1>(0x1000), [2], "the ISR's configuration bit");
    assert!(guest.failure().contains("closed the connection"));
    guest.offer(0, b"lost");
    guest.ring(0);
    guest.set_status(0);
    assert_eq!(guest.status(), 0);
    assert!(!guest.negotiate(1 << 32));
}

#[test]
fn a_back_end_that_dies_before_the_driver_comes_is_noticed() {
    let (process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    assert_ne!(guest.features(), 0);
    drop(process);
    assert!(guest.failure().contains("closed the connection"));
    assert_eq!((guest.features(), guest.status()), (0, 0));
    guest.set_status(1);
    assert_eq!(guest.status(), 0x41);
}

#[test]
fn bytes_that_nobody_asked_for_are_a_failure_at_the_next_request() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&[0xff; 1000]).unwrap();
    let mut guest = Guest::new(ours, LIMIT);
    assert_eq!(guest.features(), 0);
    assert!(guest.failure().contains("did not accept GET_FEATURES"));
}

#[test]
fn dropping_the_device_closes_the_connection_and_is_no_failure() {
    let (process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    guest.bring_up();
    let Guest {
        function,
        events,
        host,
        ..
    } = guest;
    drop(function);
    assert!(events.recv_timeout(Duration::from_millis(200)).is_err());
    assert_eq!(host.doorbells(), [0; 0]);
    drop(process);
}

#[test]
fn dropping_a_device_in_the_middle_of_its_handshake_does_not_wait_for_it() {
    let begin = Instant::now();
    drop(Guest::new(liar::start(|_| Answer::Silence), LIMIT));
    assert!(begin.elapsed() < LIMIT / 2);
}

#[test]
fn rings_outside_of_ram_or_across_its_gap_never_reach_the_back_end() {
    let (process, socket) = Process::start();
    let mut guest = Guest::new(socket, LIMIT);
    let mib = 1 << 20;
    for base in [
        mib,
        mib - 16,
        mib - 0x1010,
        (4 << 30) - 16,
        u64::MAX - 15,
        BAR,
        1 << 63,
    ] {
        assert!(guest.negotiate(1 << 32));
        guest.write(0x10, &[0, 0]);
        guest.queue(0, base);
        guest.set_status(0xf);
        assert_eq!(guest.status(), 0x4f, "{base:#x}");
        assert_eq!(guest.interrupt(0), Some(0x40));
    }
    assert!(
        guest.events.try_recv().is_err(),
        "the driver's mistake, not the device's"
    );
    guest.bring_up();
    assert_eq!(guest.request(0), 0x41);
    drop(process);
}

#[test]
fn more_queues_than_the_device_has_are_no_reason_to_wait() {
    let (_process, socket) = Process::start();
    let mut guest = Guest::with_queues(socket, LIMIT, vec![16; 3]);
    assert_eq!(guest.features(), 0);
    assert!(
        guest
            .failure()
            .contains("has 2 queues, the machine's description says 3")
    );
}

/// One answer of an arbitrary back end; most are right, so that later steps are reached.
fn arbitrary() -> impl Strategy<Value = Answer> {
    prop_oneof![
        12 => Just(()).prop_map(|()| Answer::Correctly),
        1 => vec(any::<u8>(), 0..64).prop_map(Answer::Body),
        1 => vec(any::<u8>(), 0..64).prop_map(Answer::Raw),
        1 => any::<u64>().prop_map(number),
        1 => Just(()).prop_map(|()| Answer::HangUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn whatever_a_back_end_answers_the_guest_goes_on(answers in vec(arbitrary(), 40)) {
        let mut answers = answers.into_iter();
        let socket = liar::start(move |_| answers.next().unwrap_or(Answer::HangUp));
        let mut guest = Guest::new(socket, SHORT);
        prop_assert_eq!(guest.features() & (0xff_ffff << 30) & !(1 << 32) & !(!0 << 50), 0);
        if guest.negotiate(1 << 32) {
            guest.queue(0, 0x1_0000);
            guest.set_status(0xf);
            guest.write(0x2000, &[1]);
        }
        guest.set_status(0);
        prop_assert_eq!(guest.status(), 0);
        prop_assert!(guest.events.try_iter().count() <= 1);
    }
}
