//! Correct traffic: what a guest's driver does, over real rings, byte for byte.

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::libc::{
    EACCES, EEXIST, EINVAL, ENODATA, ENOENT, ENOTEMPTY, EPERM, EROFS, O_EXCL, O_RDONLY, O_RDWR,
    O_TRUNC, O_WRONLY,
};
use support::fuse::{FATTR_GID, FATTR_MODE, FATTR_NOW, FATTR_SIZE, FATTR_UID, ROOT};
use support::{Device, PATIENCE, fuse};
use tempfile::tempdir;

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * 31 + seed) % 251).unwrap())
        .collect()
}

#[test]
fn the_configuration_space_has_the_tag_and_one_request_queue() {
    let share = tempdir().unwrap();
    let device = Device::start(share.path(), "");
    let config = device.driver.frontend.config(0, 40).unwrap();
    let mut expected = b"share".to_vec();
    expected.resize(36, 0);
    expected.extend(1u32.to_le_bytes());
    assert_eq!(config, expected);
}

#[test]
fn a_file_is_found_and_read_byte_for_byte() {
    let share = tempdir().unwrap();
    let content = pattern(300_001, 7);
    fs::write(share.path().join("file"), &content).unwrap();
    let mut device = Device::start(share.path(), "");
    let entry = device.lookup(ROOT, "file").unwrap();
    assert_eq!(entry.size, 300_001);
    let handle = device.open(entry.inode, O_RDONLY).unwrap();
    let mut read = Vec::new();
    while read.len() < content.len() {
        let piece = device
            .read(entry.inode, handle, read.len() as u64, 65_536)
            .unwrap();
        assert!(!piece.is_empty());
        read.extend(piece);
    }
    assert_eq!(read, content);
    assert_eq!(
        device.read(entry.inode, handle, 300_001, 10),
        Ok(vec![]),
        "at the end"
    );
    device.release(entry.inode, handle).unwrap();
    assert_eq!(device.lookup(ROOT, "nothing"), Err(ENOENT));
}

#[test]
fn a_created_file_has_the_content_mode_and_owner_the_guest_gave_it() {
    let share = tempdir().unwrap();
    let mut device = Device::start(share.path(), "");
    let (entry, handle) = device.create(ROOT, "new", O_RDWR, 0o100_640).unwrap();
    let content = pattern(1 << 20, 3);
    assert_eq!(
        device.write(entry.inode, handle, 4096, &content),
        Ok(1 << 20)
    );
    assert_eq!(device.write(entry.inode, handle, 0, b"begin"), Ok(5));
    device.release(entry.inode, handle).unwrap();
    let mut expected = vec![0; 4096];
    expected[..5].copy_from_slice(b"begin");
    expected.extend(&content);
    let path = share.path().join("new");
    assert!(fs::read(&path).unwrap() == expected);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
    let again = device.create(ROOT, "new", O_RDWR | O_EXCL, 0o100_640);
    assert_eq!(again, Err(EEXIST));
}

#[test]
fn every_name_of_a_large_directory_is_listed_once() {
    let share = tempdir().unwrap();
    let mut expected: Vec<_> = (0..1500).map(|n| format!("entry-number-{n}")).collect();
    for name in &expected {
        fs::write(share.path().join(name), "").unwrap();
    }
    let mut device = Device::start(share.path(), "");
    let mut names = device.names(ROOT, 4096).unwrap();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn names_can_be_made_moved_linked_and_removed() {
    let share = tempdir().unwrap();
    let at = |name: &str| share.path().join(name);
    let mut device = Device::start(share.path(), "");
    let directory = device.mkdir(ROOT, "d", 0o750).unwrap().inode;
    assert_eq!(
        fs::metadata(at("d")).unwrap().permissions().mode() & 0o7777,
        0o750
    );
    let (file, handle) = device.create(ROOT, "f", O_WRONLY, 0o100_600).unwrap();
    device.write(file.inode, handle, 0, b"moved").unwrap();
    device.rename((ROOT, "f"), (directory, "g")).unwrap();
    assert!(!at("f").exists());
    assert_eq!(fs::read(at("d/g")).unwrap(), b"moved");
    assert_eq!(device.link(file.inode, ROOT, "hard").unwrap().links, 2);
    device.symlink(ROOT, "soft", "d/g").unwrap();
    assert_eq!(fs::read_link(at("soft")).unwrap(), Path::new("d/g"));
    device.mknod(ROOT, "pipe", 0o010_644, 0).unwrap();
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(device.rmdir(ROOT, "d"), Err(ENOTEMPTY));
    device.unlink(directory, "g").unwrap();
    device.rmdir(ROOT, "d").unwrap();
    assert!(!at("d").exists());
    assert_eq!(fs::read(at("hard")).unwrap(), b"moved");
}

#[test]
fn mode_size_and_extended_attributes_reach_the_host_and_come_back() {
    let share = tempdir().unwrap();
    let path = share.path().join("f");
    fs::write(&path, "0123456789").unwrap();
    let mut device = Device::start(share.path(), "");
    let inode = device.lookup(ROOT, "f").unwrap().inode;
    let set = device
        .set_attributes(inode, FATTR_MODE, [0o4711, 0, 0], 0)
        .unwrap();
    assert_eq!(set.mode, 0o104_711);
    let set = device.set_attributes(inode, FATTR_SIZE, [0; 3], 4).unwrap();
    assert_eq!((set.size, fs::read(&path).unwrap()), (4, b"0123".to_vec()));
    device
        .set_xattr(inode, "user.crumble", b"value\0with zero")
        .unwrap();
    assert_eq!(
        device.xattr(inode, "user.crumble").unwrap(),
        b"value\0with zero"
    );
    assert_eq!(device.xattr(inode, "user.other"), Err(ENODATA));
}

/// What takes root is checked by an ordinary user too: that it is refused.
#[test]
fn files_belong_to_whom_the_guest_says_or_are_refused() {
    let share = tempdir().unwrap();
    fs::set_permissions(share.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = share.path().join("f");
    fs::write(&path, "").unwrap();
    let mut device = Device::start(share.path(), "");
    let inode = device.lookup(ROOT, "f").unwrap().inode;
    let owner = FATTR_UID | FATTR_GID;
    let given = device.set_attributes(inode, owner, [0, 12_345, 23_456], 0);
    device.uid = 1234;
    device.gid = 5678;
    let created = device.create(ROOT, "theirs", O_RDWR, 0o100_600);
    if nix::unistd::geteuid().is_root() {
        let given = given.unwrap();
        assert_eq!((given.uid, given.gid), (12_345, 23_456));
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 23_456));
        let metadata = fs::metadata(share.path().join("theirs")).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 5678));
        assert_eq!(created.unwrap().0.uid, 1234);
    } else {
        assert!(given.is_err() && created.is_err());
    }
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let share = tempdir().unwrap();
    let path = share.path().join("f");
    fs::write(&path, "kept").unwrap();
    let mut device = Device::start(share.path(), "ro");
    let inode = device.lookup(ROOT, "f").unwrap().inode;
    assert_eq!(device.open(inode, O_WRONLY), Err(EROFS));
    assert_eq!(device.open(inode, O_RDWR), Err(EROFS));
    assert_eq!(device.create(ROOT, "n", O_RDWR, 0o100_600), Err(EROFS));
    assert_eq!(device.mkdir(ROOT, "n", 0o700), Err(EROFS));
    assert_eq!(device.mknod(ROOT, "n", 0o010_600, 0), Err(EROFS));
    assert_eq!(device.symlink(ROOT, "n", "f"), Err(EROFS));
    assert_eq!(device.link(inode, ROOT, "n"), Err(EROFS));
    assert_eq!(device.unlink(ROOT, "f"), Err(EROFS));
    assert_eq!(device.rename((ROOT, "f"), (ROOT, "n")), Err(EROFS));
    assert_eq!(device.set_xattr(inode, "user.x", b"1"), Err(EROFS));
    let mode = device.set_attributes(inode, FATTR_MODE, [0o777, 0, 0], 0);
    assert_eq!(mode, Err(EROFS));
    let truncated = device.open(inode, O_RDONLY | O_TRUNC);
    assert_eq!(truncated, Err(EINVAL));
    let handle = device.open(inode, O_RDONLY).unwrap();
    assert!(device.write(inode, handle, 0, b"lost").is_err());
    assert_eq!(device.read(inode, handle, 0, 100).unwrap(), b"kept");
    assert_eq!(fs::read(&path).unwrap(), b"kept");
    assert_eq!(fs::read_dir(share.path()).unwrap().count(), 1);
}

#[test]
fn no_name_leads_out_of_the_share() {
    let outside = tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let share = outside.path().join("share");
    fs::create_dir(&share).unwrap();
    symlink(&secret, share.join("absolute")).unwrap();
    symlink("../secret", share.join("relative")).unwrap();
    fs::write(share.join("f"), "").unwrap();
    let mut device = Device::start(&share, "");
    let inode = device.lookup(ROOT, "f").unwrap().inode;
    let absolute = secret.to_str().unwrap().to_owned();
    for name in [
        "..",
        "../secret",
        "f/../../secret",
        "./f",
        ".",
        "",
        "/",
        &absolute,
    ] {
        assert_eq!(device.lookup(ROOT, name), Err(EINVAL), "{name}");
        assert_eq!(device.unlink(ROOT, name), Err(EINVAL), "{name}");
        assert_eq!(device.rmdir(ROOT, name), Err(EINVAL), "{name}");
        assert_eq!(device.mkdir(ROOT, name, 0o777), Err(EINVAL), "{name}");
        assert_eq!(
            device.mknod(ROOT, name, 0o010_600, 0),
            Err(EINVAL),
            "{name}"
        );
        assert_eq!(device.symlink(ROOT, name, "x"), Err(EINVAL), "{name}");
        assert_eq!(device.link(inode, ROOT, name), Err(EINVAL), "{name}");
        assert_eq!(device.create(ROOT, name, O_RDWR, 0o100_600), Err(EINVAL));
        assert_eq!(device.rename((ROOT, name), (ROOT, "g")), Err(EINVAL));
        assert_eq!(device.rename((ROOT, "f"), (ROOT, name)), Err(EINVAL));
    }
    // A symbolic link is the guest's to follow: the device neither opens nor enters it.
    for link in ["absolute", "relative"] {
        let inode = device.lookup(ROOT, link).unwrap().inode;
        assert!(device.open(inode, O_RDONLY).is_err(), "{link}");
        assert!(device.lookup(inode, "secret").is_err(), "{link}");
        assert!(
            device.create(ROOT, link, O_RDWR, 0o100_600).is_err(),
            "{link}"
        );
    }
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
}

#[test]
fn the_host_kernels_own_directories_are_shown_and_not_entered() {
    let mut device = Device::start(Path::new("/"), "ro");
    for name in ["proc", "sys"] {
        let entry = device.lookup(ROOT, name).unwrap();
        assert_eq!(entry.mode & 0o170_000, 0o040_000, "{name} is a directory");
        assert_eq!(device.lookup(entry.inode, "self"), Err(ENOENT));
        assert_eq!(device.lookup(entry.inode, "kernel"), Err(ENOENT));
        assert_eq!(device.opendir(entry.inode), Err(EACCES));
        assert_eq!(device.open(entry.inode, O_RDONLY), Err(EACCES));
    }
    let etc = device.lookup(ROOT, "etc").unwrap().inode;
    assert!(!device.names(etc, 4096).unwrap().is_empty());
}

#[test]
fn the_cache_policy_says_how_long_names_are_kept() {
    let share = tempdir().unwrap();
    fs::write(share.path().join("f"), "").unwrap();
    for (words, seconds) in [("never", 0), ("", 1), ("always", 86_400)] {
        let mut device = Device::start(share.path(), words);
        assert_eq!(device.lookup(ROOT, "f").unwrap().valid_seconds, seconds);
    }
    let mut device = Device::start(share.path(), "always");
    let absent = device.lookup(ROOT, "nothing").unwrap();
    assert_eq!((absent.inode, absent.valid_seconds), (0, 86_400));
}

#[test]
fn a_single_users_files_appear_as_the_owners_and_other_users_can_do_nothing() {
    let share = tempdir().unwrap();
    fs::set_permissions(share.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Without a user namespace the only user is whoever has the number 0.
    let mut device = Device::start(share.path(), "single=1000");
    device.uid = 1001;
    assert_eq!(device.create(ROOT, "x", O_RDWR, 0o100_600), Err(EACCES));
    device.uid = 0;
    let (entry, _) = device.create(ROOT, "by-root", O_RDWR, 0o100_600).unwrap();
    let chown = device.set_attributes(entry.inode, FATTR_UID, [0, 1001, 0], 0);
    assert_eq!(chown, Err(EPERM));
    if nix::unistd::geteuid().is_root() {
        assert_eq!(entry.uid, 1000);
        assert_eq!(fs::metadata(share.path().join("by-root")).unwrap().uid(), 0);
        device.uid = 1000;
        device.gid = 1000;
        let (entry, _) = device.create(ROOT, "by-owner", O_RDWR, 0o100_600).unwrap();
        assert_eq!((entry.uid, entry.gid), (1000, 1000));
        let chown = device.set_attributes(entry.inode, FATTR_UID, [0, 1000, 0], 0);
        assert_eq!(chown.unwrap().uid, 1000);
    }
}

#[test]
fn many_requests_at_once_are_each_answered() {
    let share = tempdir().unwrap();
    for n in 0..40 {
        fs::write(share.path().join(format!("f{n}")), pattern(n * 100, n)).unwrap();
    }
    let mut device = Device::start(share.path(), "");
    let mut waiting = std::collections::BTreeMap::new();
    for n in 0..40u64 {
        let body = fuse::name(&format!("f{n}"));
        let mut request = device.header(fuse::LOOKUP, ROOT, body.len());
        request.extend(body);
        let memory = &device.driver.memory;
        let [at, answer] = [
            memory.allocate(4096).unwrap(),
            memory.allocate(4096).unwrap(),
        ];
        memory.write(at, &request).unwrap();
        let buffers = [
            vq_driver::Buffer::readable(at, u32::try_from(request.len()).unwrap()),
            vq_driver::Buffer::writable(answer, 144),
        ];
        let queue = &mut device.driver.queues[support::REQUESTS];
        waiting.insert(queue.add_indirect(&buffers).unwrap(), (n, answer));
    }
    device.driver.queues[support::REQUESTS].kick().unwrap();
    for _ in 0..40 {
        let used = device.driver.queues[support::REQUESTS]
            .wait(PATIENCE)
            .unwrap();
        let (n, answer) = waiting.remove(&used.head).unwrap();
        let mut size = [0; 8];
        let offset = 16 + 40 + 8;
        device
            .driver
            .memory
            .read(answer + offset, &mut size)
            .unwrap();
        assert_eq!(u64::from_le_bytes(size), n * 100);
    }
}

#[test]
fn the_device_ends_with_success_when_its_front_end_vanishes() {
    let share = tempdir().unwrap();
    let mut device = Device::start(share.path(), "");
    device.lookup(ROOT, "nothing").unwrap_err();
    let stream = device.driver.frontend.stream();
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(device.wait_for_end().expect("it ends").code == Some(0));
}

/// What is not worth a test of its own, so that each system call behind it is made in the jail.
#[test]
fn the_rest_of_the_requests_is_served() {
    let share = tempdir().unwrap();
    let path = share.path().join("f");
    fs::write(&path, "0123456789").unwrap();
    let mut device = Device::start(share.path(), "");
    let inode = device.lookup(ROOT, "f").unwrap().inode;
    let handle = device.open(inode, O_RDWR).unwrap();
    let by_handle = handle.to_le_bytes();
    for flags in [0u32, 1] {
        let body = [&by_handle[..], &fuse::words(&[flags, 0])].concat();
        device.request(fuse::FSYNC, inode, &[&body], 0).unwrap();
    }
    device
        .request(fuse::FLUSH, inode, &[&by_handle, &[0; 16]], 0)
        .unwrap();
    let listing = device.opendir(ROOT).unwrap().to_le_bytes();
    device
        .request(fuse::FSYNCDIR, ROOT, &[&listing, &[0; 8]], 0)
        .unwrap();
    device.request(fuse::SYNCFS, ROOT, &[&[0; 8]], 0).unwrap();
    assert_eq!(
        device.request(fuse::STATFS, ROOT, &[], 80).unwrap().len(),
        80
    );
    for mask in [0u32, 4, 2, 1] {
        let answer = device.request(fuse::ACCESS, inode, &[&fuse::words(&[mask, 0])], 0);
        assert_eq!(answer.is_ok(), mask != 1, "{mask}");
    }
    // From 8192, 4096 bytes; then what is there is copied to the begin of the file.
    let space = [&by_handle[..], &longs(&[8192, 4096]), &[0; 8]].concat();
    device
        .request(fuse::FALLOCATE, inode, &[&space], 0)
        .unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 8192 + 4096);
    assert_eq!(device.write(inode, handle, 8192, b"copied"), Ok(6));
    let copy = longs(&[handle, 8192, inode, handle, 0, 6, 0]);
    device
        .request(fuse::COPY_FILE_RANGE, inode, &[&copy], 8)
        .unwrap();
    assert_eq!(device.read(inode, handle, 0, 10).unwrap(), b"copied6789");
    let data = [&by_handle[..], &longs(&[0]), &fuse::words(&[3, 0])].concat();
    let offset = device.request(fuse::LSEEK, inode, &[&data], 8).unwrap();
    assert_eq!(offset, 0u64.to_le_bytes(), "data begins at once");
    let now = device.set_attributes(inode, FATTR_NOW, [0; 3], 0).unwrap();
    assert_eq!(now.size, 8192 + 4096);
}

#[test]
fn attributes_of_files_that_cannot_be_opened_are_reached_too() {
    let share = tempdir().unwrap();
    let mut device = Device::start(share.path(), "");
    let fifo = device.mknod(ROOT, "fifo", 0o010_600, 0).unwrap().inode;
    let link = device.symlink(ROOT, "link", "nowhere").unwrap().inode;
    for inode in [fifo, link] {
        // The kernel keeps `user.` to files and directories.
        assert_eq!(device.set_xattr(inode, "user.x", b"1"), Err(EPERM));
        assert!(device.xattr(inode, "user.x").is_err());
        let removed = device.request(fuse::REMOVEXATTR, inode, &[&fuse::name("user.x")], 0);
        assert_eq!(removed, Err(EPERM));
        let list = device.request(fuse::LISTXATTR, inode, &[&fuse::words(&[4096, 0])], 4096);
        assert!(list.is_ok(), "{list:?}");
        let time = device.set_attributes(inode, FATTR_NOW, [0; 3], 0);
        assert!(time.is_ok(), "{time:?}");
    }
    let mode = device.set_attributes(fifo, FATTR_MODE, [0o640, 0, 0], 0);
    assert_eq!(mode.unwrap().mode, 0o010_640);
    assert_eq!(device.readlink(link).unwrap(), b"nowhere");
}

#[test]
fn a_write_that_must_clear_set_user_id_does() {
    let share = tempdir().unwrap();
    let path = share.path().join("f");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let mut device = Device::start(share.path(), "");
    let inode = device.lookup(ROOT, "f").unwrap().inode;
    let handle = device.open(inode, O_WRONLY).unwrap();
    let mut body = fuse::transfer(handle, 0, 1);
    body[20] = 4; // FUSE_WRITE_KILL_SUIDGID
    device
        .request(fuse::WRITE, inode, &[&body, b"y"], 8)
        .unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o755
    );
}

#[test]
fn names_come_with_attributes_where_the_guest_asks_for_both() {
    let share = tempdir().unwrap();
    fs::write(share.path().join("only"), "12345").unwrap();
    let mut device = Device::start(share.path(), "");
    let handle = device.opendir(ROOT).unwrap();
    let body = fuse::transfer(handle, 0, 4096);
    let answer = device
        .request(fuse::READDIRPLUS, ROOT, &[&body], 4096)
        .unwrap();
    let at = answer
        .windows(4)
        .position(|window| window == b"only")
        .unwrap();
    // The name comes after 24 bytes of directory entry, and those after 128 of attributes.
    let size = at - 24 - 128 + 40 + 8;
    assert_eq!(answer[size..size + 8], 5u64.to_le_bytes());
}

fn longs(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
