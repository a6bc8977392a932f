//! What a registry says that an image consists of. What is taken for an image is one.
#![no_main]

use image::{Document, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Document::Manifest(manifest)) = parse("x", None, bytes) {
        assert!(manifest.layers.len() <= 127);
        assert!(
            manifest
                .layers
                .iter()
                .all(|layer| layer.compression().is_some())
        );
        let again = serde_json::to_vec(&manifest).expect("it is written as it was read");
        assert_eq!(
            parse("x", None, &again).ok(),
            Some(Document::Manifest(manifest))
        );
    }
});
