//! What a device process answers the VMM. Whatever it is, the guest's accesses come back, the device
//! can be reset, and the owner hears of at most one failure.
#![no_main]
#![allow(dead_code, reason = "the tests' modules have more than is used here")]

#[path = "../../crates/vmm/tests/virtio/echo.rs"]
mod echo;
#[path = "../../crates/vmm/tests/virtio/guest.rs"]
mod guest;
#[path = "../../crates/vmm/tests/virtio/host.rs"]
mod host;
#[path = "../../crates/vmm/tests/virtio/liar.rs"]
mod liar;

use std::time::Duration;

use guest::Guest;
use liar::Answer;
use libfuzzer_sys::fuzz_target;

/// Silence is waited for, so it must be short.
const LIMIT: Duration = Duration::from_millis(10);

/// The next answer: what kind it is, how long, and its bytes. At the end everything is right.
fn answer(rest: &mut &[u8]) -> Answer {
    let Some((kind, tail)) = rest.split_first() else {
        return Answer::Correctly;
    };
    *rest = tail;
    if !matches!(kind, 1 | 2) {
        return match kind {
            3 => Answer::HangUp,
            4 => Answer::Silence,
            _ => Answer::Correctly,
        };
    }
    let (length, tail) = rest.split_first().unwrap_or((&0, &[]));
    let (bytes, tail) = tail.split_at(tail.len().min((*length).into()));
    *rest = tail;
    match kind {
        1 => Answer::Body(bytes.to_vec()),
        _ => Answer::Raw(bytes.to_vec()),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = bytes.to_vec();
    let mut used = 0;
    let socket = liar::start(move |_| {
        let mut rest = &bytes[used..];
        let answer = answer(&mut rest);
        used = bytes.len() - rest.len();
        answer
    });
    let mut guest = Guest::new(socket, LIMIT);
    for _ in 0..2 {
        // The features that are ours to hide stay hidden, whatever is offered.
        assert_eq!(
            guest.features() & (0xff_ffff << 30) & !(1 << 32) & !(!0 << 50),
            0
        );
        if guest.negotiate(1 << 32) {
            guest.queue(0, 0x1_0000);
            guest.queue(1, guest::HIGH);
            guest.set_status(0xf);
            guest.write(0x2000, &[1]);
            guest.read::<8>(0x2000);
        }
        guest.set_status(0);
        assert_eq!(guest.status(), 0);
    }
    assert!(guest.events.try_iter().count() <= 1);
});
