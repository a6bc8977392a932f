//! A process that is killed at any moment, and another one in its place: the guest notices nothing.

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::libc::{EBADF, EEXIST, ENODATA, ENOENT, ESTALE, O_EXCL, O_RDWR, RENAME_EXCHANGE};
use support::fuse::{FATTR_SIZE, ROOT};
use support::{Device, Fate};
use tempfile::tempdir;

/// Stories that are told while processes die.
const STORIES: u64 = 30;

/// Descriptors of the process.
fn descriptors(device: &Device) -> usize {
    fs::read_dir(format!("/proc/{}/fd", device.process.pid()))
        .unwrap()
        .count()
}

#[test]
fn files_and_handles_outlive_the_process() {
    let share = tempdir().unwrap();
    let deep = share.path().join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "0123456789").unwrap();
    let mut device = Device::start(share.path(), "");
    let mut parent = ROOT;
    for name in ["a", "b", "c"] {
        parent = device.lookup(parent, name).unwrap().inode;
    }
    let file = device.lookup(parent, "file").unwrap().inode;
    let handle = device.open(file, O_RDWR).unwrap();
    let listing = device.opendir(parent).unwrap();

    device.replace(share.path(), "");
    assert_eq!(device.write(file, handle, 2, b"xy"), Ok(2));
    assert_eq!(device.read(file, handle, 0, 10), Ok(b"01xy456789".to_vec()));
    assert_eq!(device.lookup(parent, "file").unwrap().inode, file);
    assert_eq!(device.names(parent, 4096).unwrap(), ["file"]);
    device.release_directory(parent, listing).unwrap();
    device.release(file, handle).unwrap();
    assert_eq!(device.release(file, handle), Err(EBADF));

    // What it was told of twice is forgotten twice.
    device.replace(share.path(), "");
    device.forget(file, 1);
    assert_eq!(device.attributes(file).unwrap().size, 10);
    device.forget(file, 1);
    assert_eq!(device.attributes(file), Err(EBADF));
}

#[test]
fn a_number_that_is_given_again_has_another_generation() {
    let share = tempdir().unwrap();
    for name in ["one", "other"] {
        fs::write(share.path().join(name), "").unwrap();
    }
    let mut device = Device::start(share.path(), "");
    let one = device.lookup(ROOT, "one").unwrap();
    device.replace(share.path(), "");
    assert_eq!(device.lookup(ROOT, "one").unwrap(), one);
    device.forget(one.inode, 2);
    let other = device.lookup(ROOT, "other").unwrap();
    assert_eq!(other.inode, one.inode);
    assert_ne!(other.generation, one.generation);
}

#[test]
fn what_was_moved_is_found_where_it_is() {
    let share = tempdir().unwrap();
    fs::create_dir_all(share.path().join("from/inner")).unwrap();
    fs::write(share.path().join("from/inner/file"), "content").unwrap();
    let mut device = Device::start(share.path(), "");
    let from = device.lookup(ROOT, "from").unwrap().inode;
    let inner = device.lookup(from, "inner").unwrap().inode;
    let file = device.lookup(inner, "file").unwrap().inode;
    device.rename((from, "inner"), (ROOT, "moved")).unwrap();
    let copy = device.link(file, ROOT, "second").unwrap().inode;
    assert_eq!(copy, file);
    device.unlink(inner, "file").unwrap();
    device.rmdir(ROOT, "from").unwrap();
    device.replace(share.path(), "");
    assert_eq!(device.attributes(file).unwrap().links, 1);
    assert_eq!(device.names(inner, 4096).unwrap(), [""; 0]);
    assert_eq!(device.lookup(ROOT, "moved").unwrap().inode, inner);
    // By another name than the one that was written down.
    assert_eq!(device.link(file, inner, "third").unwrap().inode, file);
    device.replace(share.path(), "");
    assert_eq!(device.lookup(ROOT, "second").unwrap().inode, file);
}

#[test]
fn a_file_that_was_removed_is_not_taken_for_another_one() {
    let share = tempdir().unwrap();
    for name in ["ours", "theirs"] {
        fs::write(share.path().join(name), name).unwrap();
    }
    let mut device = Device::start(share.path(), "");
    let [ours, theirs] = ["ours", "theirs"].map(|name| device.lookup(ROOT, name).unwrap().inode);
    let handle = device.open(theirs, O_RDWR).unwrap();
    device.unlink(ROOT, "ours").unwrap();
    fs::remove_file(share.path().join("theirs")).unwrap();
    fs::write(share.path().join("ours"), "another").unwrap();
    device.replace(share.path(), "");
    assert_eq!(device.attributes(ours), Err(ESTALE));
    assert_eq!(device.attributes(theirs), Err(ESTALE));
    assert_eq!(device.read(theirs, handle, 0, 10), Err(ESTALE));
    device.release(theirs, handle).unwrap();
    device.forget(ours, 1);
    assert_eq!(device.attributes(ours), Err(EBADF));
    let another = device.lookup(ROOT, "ours").unwrap();
    assert_eq!(another.size, 7);
    device
        .create(ROOT, "theirs", O_RDWR | O_EXCL, 0o644)
        .unwrap();
}

#[test]
fn a_driver_that_begins_anew_finds_nothing_of_the_one_before() {
    let share = tempdir().unwrap();
    fs::write(share.path().join("file"), "content").unwrap();
    let mut device = Device::start(share.path(), "");
    let file = device.lookup(ROOT, "file").unwrap().inode;
    device.init();
    assert_eq!(device.attributes(file), Err(EBADF));
    device.replace(share.path(), "");
    assert_eq!(device.attributes(file), Err(EBADF));
    device.lookup(ROOT, "file").unwrap();
}

/// Makes, changes and removes everything there is, and checks each step on the host.
fn tell(device: &mut Device, share: &Path, story: u64) {
    let name = |what: &str| format!("{what}-{story}");
    let [directory, moved, link, pipe] = ["directory", "moved", "link", "pipe"].map(name);
    let at = |name: &str| share.join(name);
    let inside = device.mkdir(ROOT, &directory, 0o755).unwrap().inode;
    assert_eq!(device.mkdir(ROOT, &directory, 0o755), Err(EEXIST));
    let (file, handle) = device
        .create(inside, "file", O_RDWR | O_EXCL, 0o100_444)
        .unwrap();
    let file = file.inode;
    let mut content = Vec::new();
    for piece in 0..4_u64 {
        let bytes = [u8::try_from(story + piece).unwrap(); 100];
        assert_eq!(device.append(file, handle, &bytes), Ok(100));
        content.extend(bytes);
    }
    assert_eq!(device.write(file, handle, 50, b"over"), Ok(4));
    content[50..54].copy_from_slice(b"over");
    assert!(fs::read(at(&directory).join("file")).unwrap() == content);
    device.new_xattr(file, "user.crumble", b"value").unwrap();
    let again = device.new_xattr(file, "user.crumble", b"value");
    assert_eq!(again, Err(EEXIST));
    assert_eq!(device.link(file, ROOT, &link).unwrap().inode, file);
    device.rename((inside, "file"), (ROOT, &moved)).unwrap();
    assert!(!at(&directory).join("file").exists());
    assert_eq!(fs::metadata(at(&moved)).unwrap().nlink(), 2);
    let fifo = device.mknod(ROOT, &pipe, 0o010_600, 0).unwrap().inode;
    device
        .rename_as((ROOT, &pipe), (ROOT, &link), RENAME_EXCHANGE)
        .unwrap();
    assert!(fs::metadata(at(&link)).unwrap().file_type().is_fifo());
    let soft = device.symlink(inside, "soft", &moved).unwrap().inode;
    assert_eq!(device.readlink(soft), Ok(moved.clone().into_bytes()));
    device.remove_xattr(file, "user.crumble").unwrap();
    let again = device.remove_xattr(file, "user.crumble");
    assert_eq!(again, Err(ENODATA));
    let cut = device.set_attributes(file, FATTR_SIZE, [0; 3], 150);
    content.truncate(150);
    assert_eq!(cut.unwrap().size, 150);
    assert_eq!(device.read(file, handle, 0, 1000), Ok(content));
    device.release(file, handle).unwrap();
    for (parent, name) in [
        (ROOT, &*moved),
        (ROOT, &*link),
        (ROOT, &*pipe),
        (inside, "soft"),
    ] {
        device.unlink(parent, name).unwrap();
        assert_eq!(device.unlink(parent, name), Err(ENOENT));
    }
    device.rmdir(ROOT, &directory).unwrap();
    // Made and linked, made, made, made.
    for (inode, times) in [(file, 2), (fifo, 1), (soft, 1), (inside, 1)] {
        device.forget(inode, times);
    }
}

#[test]
fn every_request_is_carried_out_once_whenever_the_process_is_killed() {
    let share = tempdir().unwrap();
    let mut device = Device::start(share.path(), "");
    let before = descriptors(&device);
    device.fate = Some(Fate::new(share.path(), "", 0x5eed));
    for story in 0..STORIES {
        tell(&mut device, share.path(), story);
    }
    let deaths = device.fate.take().unwrap().deaths;
    assert!(deaths > 50, "{deaths}");
    assert_eq!(fs::read_dir(share.path()).unwrap().count(), 0);
    assert_eq!(device.attributes(ROOT).unwrap().inode, ROOT);
    assert_eq!(descriptors(&device), before, "after {deaths} deaths");
}
