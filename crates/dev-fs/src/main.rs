//! The file-system device's process.
fn main() {}
