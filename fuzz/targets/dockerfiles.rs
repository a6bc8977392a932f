//! A Dockerfile that somebody wrote, and as `.dockerignore` too.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = build::check("Dockerfile", bytes);
    if let Ok(ignore) = build::Ignore::parse(&String::from_utf8_lossy(bytes)) {
        let _ = ignore.hides("src/a/b.rs");
    }
});
