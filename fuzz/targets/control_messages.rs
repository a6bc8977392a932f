//! What a component sends its supervisor, and the other way round. What can be decoded can be encoded,
//! and means the same then.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};
use wire::{fs, vmm, vsock};

fn both_ways<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    if let Ok(message) = wire::decode::<T>(bytes) {
        let again =
            wire::encode(&message).expect("what was small enough to come is small enough to go");
        let same = wire::decode::<T>(&again).expect("it was encoded here");
        assert_eq!(format!("{message:?}"), format!("{same:?}"));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 6 {
        0 => both_ways::<vmm::Event>(rest),
        1 => both_ways::<vmm::Request>(rest),
        2 => both_ways::<vmm::Config>(rest),
        3 => both_ways::<vsock::Event>(rest),
        4 => both_ways::<vsock::Request>(rest),
        _ => both_ways::<fs::Config>(rest),
    }
});
