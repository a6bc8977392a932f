//! What a name server answers. What is believed has the question's identifier.
#![no_main]

use dialer::answer::{Worth, worth};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|messages: (&[u8], &[u8])| {
    let (question, answer) = messages;
    if worth(question, answer) != Worth::Foreign {
        assert_eq!(question.get(..2), answer.get(..2));
    }
});
