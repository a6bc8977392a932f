//! What a guest's agent sends, and what its host sends it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{
    agent::{Control, Event, Opening, Ready, Setup},
    frame,
};

/// Reads messages of one kind to the end or the first error.
fn read<T: serde::de::DeserializeOwned>(mut bytes: &[u8]) {
    while let Ok(Some(_)) = frame::read::<T>(&mut bytes) {}
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 5 {
        0 => read::<Event>(rest),
        1 => read::<Opening>(rest),
        2 => read::<Control>(rest),
        3 => read::<Ready>(rest),
        _ => drop(wire::decode::<Setup>(rest)),
    }
});
