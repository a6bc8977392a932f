//! What a user says an image is. What is read is written, and read again, the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spec::{Image, Reference};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }
    if let Ok(image) = text.parse::<Image>() {
        assert_eq!(image.to_string().parse(), Ok(image));
    }
});
