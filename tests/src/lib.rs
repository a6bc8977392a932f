//! End-to-end tests; see `e2e/`.

#![forbid(unsafe_code)]
