//! A layer is unpacked by a process of its own.

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    os::fd::OwnedFd,
    path::Path,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use supervisor::{
    Error, Programs,
    unpack::{Unpack, run},
};
use wire::unpack::{Compression, Config, Limits};

type Test = (&'static str, fn());

pub(crate) const TESTS: &[Test] = &[
    ("a_layer_is_unpacked_into_the_image", unpacked),
    ("what_is_wrong_with_a_layer_is_told", refused),
    (
        "an_unpacker_that_dies_is_reported_with_its_last_words",
        died,
    ),
    (
        "an_unpacker_that_is_killed_is_an_error_and_no_zombie",
        killed,
    ),
    ("dropping_an_unpacker_kills_it", dropped),
    ("an_unpacker_that_is_not_there_is_named", missing),
];

/// What the stand-in is told to do.
pub(crate) const DONE: u8 = 1;
pub(crate) const FAILED: u8 = 2;
pub(crate) const DIES: u8 = 3;
const WAITS: u8 = 4;

fn config(what: u8) -> Config {
    Config {
        compression: Compression::None,
        diff_id: [what; 32],
        limits: Limits {
            bytes: 1,
            entries: 1,
        },
    }
}

fn file(contents: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(contents.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

/// Programs of which this one stands in for the unpacker.
fn programs() -> (tempfile::TempDir, Programs) {
    let directory = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    std::os::unix::fs::symlink(this, directory.path().join("crumble-unpack")).unwrap();
    let programs = Programs::in_directory(directory.path());
    (directory, programs)
}

fn end(what: u8) -> Result<wire::unpack::Summary, Error> {
    let (_directory, programs) = programs();
    run(&programs, &config(what), file("").into(), file("").into())
}

fn unpacked() {
    let (_directory, programs) = programs();
    let mut image = file("");
    let copy: OwnedFd = image.try_clone().unwrap().into();
    let summary = run(&programs, &config(DONE), file("a layer").into(), copy).unwrap();
    assert_eq!(summary.inodes, 7);
    let mut text = String::new();
    image.rewind().unwrap();
    image.read_to_string(&mut text).unwrap();
    assert_eq!(text, "a layer");
}

fn refused() {
    let text = end(FAILED).unwrap_err().to_string();
    assert_eq!(text, "the layer cannot be unpacked: it is damaged");
}

fn died() {
    let text = end(DIES).unwrap_err().to_string();
    assert!(text.contains("unpack ended with status 101"), "{text}");
    assert!(text.contains("its last words"), "{text}");
}

fn start() -> Unpack {
    let (_directory, programs) = programs();
    let (layer, image) = (file("").into(), file("").into());
    Unpack::start(&programs, &config(WAITS), &layer, &image).unwrap()
}

fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn killed() {
    let unpack = start();
    let pid = unpack.pid();
    assert!(exists(pid));
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let text = unpack.wait().unwrap_err().to_string();
    assert!(text.contains("unpack was killed by SIGKILL"), "{text}");
    assert!(!exists(pid));
}

fn dropped() {
    let unpack = start();
    let pid = unpack.pid();
    drop(unpack);
    assert!(!exists(pid));
}

fn missing() {
    let (directory, programs) = programs();
    fs::remove_file(directory.path().join("crumble-unpack")).unwrap();
    let done = run(&programs, &config(DONE), file("").into(), file("").into());
    assert!(done.unwrap_err().to_string().contains("crumble-unpack"));
}
