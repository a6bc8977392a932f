//! Malicious traffic: whatever a guest's driver does, the device answers, ends by itself, or
//! leaves the guest waiting for its own mistake; it does not hang, spin, or touch what is outside.

mod support;

use std::fs;
use std::time::Duration;

use nix::libc::{EIO, ENOSYS, O_RDONLY, O_RDWR};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::fuse::{self, ROOT};
use support::{Device, REQUESTS};
use tempfile::tempdir;
use vq_driver::{Buffer, Descriptor, F_INDIRECT, F_NEXT, F_WRITE};

/// Runs one attack on a device of its own and checks that it serves or has ended.
fn attack(name: &str, attack: impl FnOnce(&mut Device)) {
    let share = tempdir().unwrap();
    fs::write(share.path().join("f"), "content").unwrap();
    let mut device = Device::start(share.path(), "");
    attack(&mut device);
    device.driver.queues[REQUESTS].kick_anyway().unwrap();
    device.assert_serves_or_ended(name);
}

/// Makes the chain that starts with these descriptors, at index 0, available.
fn publish(device: &mut Device, descriptors: &[Descriptor]) {
    let queue = &mut device.driver.queues[REQUESTS];
    queue.expect_head(0);
    for (index, descriptor) in (0..).zip(descriptors) {
        queue.write_descriptor(index, *descriptor).unwrap();
    }
    queue.publish(0).unwrap();
}

fn request(device: &mut Device, opcode: u32, body: &[u8]) -> (u64, u32) {
    let mut bytes = device.header(opcode, ROOT, body.len());
    bytes.extend(body);
    let at = device.driver.memory.allocate(bytes.len()).unwrap();
    device.driver.memory.write(at, &bytes).unwrap();
    (at, u32::try_from(bytes.len()).unwrap())
}

#[test]
fn a_chain_that_loops_does_not_hang_the_device() {
    attack("a descriptor that is its own next", |device| {
        let (address, length) = request(device, fuse::LOOKUP, b"f\0");
        let descriptor = Descriptor {
            address,
            length,
            flags: F_NEXT,
            next: 0,
        };
        publish(device, &[descriptor]);
    });
    attack("two descriptors in a circle, writable", |device| {
        let (address, length) = request(device, fuse::LOOKUP, b"f\0");
        let one = Descriptor {
            address,
            length,
            flags: F_NEXT,
            next: 1,
        };
        let two = Descriptor {
            flags: F_NEXT | F_WRITE,
            next: 0,
            ..one
        };
        publish(device, &[one, two]);
    });
}

#[test]
fn lengths_over_4_gib_are_survived() {
    for writable in [0, F_WRITE] {
        attack("descriptors of 4 GiB each", |device| {
            let (address, _) = request(device, fuse::LOOKUP, b"f\0");
            let chain: Vec<_> = (1..=8)
                .map(|next| Descriptor {
                    address,
                    length: u32::MAX,
                    flags: writable | if next < 8 { F_NEXT } else { 0 },
                    next,
                })
                .collect();
            publish(device, &chain);
        });
    }
    attack("an honest header before 4 GiB of name", |device| {
        let (address, length) = request(device, fuse::LOOKUP, b"f\0");
        let first = Descriptor {
            address,
            length,
            flags: F_NEXT,
            next: 1,
        };
        let second = Descriptor {
            length: u32::MAX,
            flags: 0,
            ..first
        };
        publish(device, &[first, second]);
    });
}

#[test]
fn addresses_outside_of_memory_are_survived() {
    for address in [0, u64::MAX, u64::MAX - 8, 1 << 40] {
        for flags in [0, F_WRITE] {
            attack("an address outside", |device| {
                let descriptor = Descriptor {
                    address,
                    length: 128,
                    flags,
                    next: 0,
                };
                publish(device, &[descriptor]);
            });
        }
    }
}

#[test]
fn indexes_out_of_range_are_survived() {
    for next in [128, 129, 0x7fff, u16::MAX] {
        attack("a next beyond the table", |device| {
            let (address, length) = request(device, fuse::LOOKUP, b"f\0");
            let descriptor = Descriptor {
                address,
                length,
                flags: F_NEXT,
                next,
            };
            publish(device, &[descriptor]);
        });
    }
    for head in [128, u16::MAX] {
        attack("a head beyond the table", |device| {
            device.driver.queues[REQUESTS].publish(head).unwrap();
        });
    }
}

/// virtiofsd by itself would read such a ring for ever, as fast as it can.
#[test]
fn an_available_index_beyond_the_queue_ends_the_device() {
    let share = tempdir().unwrap();
    for leap in [129, 0x4000, 0x8000] {
        let mut device = Device::start(share.path(), "");
        let queue = &mut device.driver.queues[REQUESTS];
        let index = queue.available_index();
        queue.set_available_index(index.wrapping_add(leap)).unwrap();
        queue.kick_anyway().unwrap();
        let status = device.wait_for_end().expect("it ends");
        assert_eq!(status.code, Some(1));
    }
}

#[test]
fn indirect_tables_that_lie_are_survived() {
    for (length, inner) in [(0, 0), (15, 0), (17, 0), (u32::MAX, 0), (16, F_INDIRECT)] {
        attack("an indirect table", |device| {
            let (address, bytes) = request(device, fuse::LOOKUP, b"f\0");
            let table = device.driver.memory.allocate(4096).unwrap();
            let entry = [
                &address.to_le_bytes()[..],
                &bytes.to_le_bytes(),
                &inner.to_le_bytes(),
                &[0, 0],
            ];
            device.driver.memory.write(table, &entry.concat()).unwrap();
            let descriptor = Descriptor {
                address: table,
                length,
                flags: F_INDIRECT,
                next: 0,
            };
            publish(device, &[descriptor]);
        });
    }
}

#[test]
fn a_malformed_chain_ends_the_device_and_the_front_end_sees_it() {
    let share = tempdir().unwrap();
    let mut device = Device::start(share.path(), "");
    let descriptor = Descriptor {
        address: 1 << 40,
        length: 64,
        flags: 0,
        next: 0,
    };
    publish(&mut device, &[descriptor]);
    device.driver.queues[REQUESTS].kick_anyway().unwrap();
    let status = device.wait_for_end().expect("it ends");
    assert_eq!(status.code, Some(1));
    assert!(
        device.driver.frontend.features().is_err(),
        "the socket is closed"
    );
}

#[test]
fn requests_that_lie_about_their_sizes_are_refused_or_end_the_device() {
    let handle = u64::MAX.to_le_bytes();
    let cases: Vec<(u32, Vec<u8>)> = vec![
        (fuse::LOOKUP, vec![]),
        (fuse::LOOKUP, b"no end".to_vec()),
        (fuse::LOOKUP, b"in\0side\0".to_vec()),
        (fuse::LOOKUP, vec![b'a'; 1 << 20]),
        (fuse::READ, fuse::transfer(0, 0, u32::MAX)),
        (fuse::READ, fuse::transfer(u64::MAX, u64::MAX, 4096)),
        (fuse::WRITE, fuse::transfer(0, 0, u32::MAX)),
        (fuse::WRITE, fuse::transfer(0, u64::MAX, 16)),
        (fuse::READDIR, fuse::transfer(0, u64::MAX, u32::MAX)),
        (fuse::READDIRPLUS, fuse::transfer(0, 0, u32::MAX)),
        (fuse::SETXATTR, fuse::words(&[u32::MAX, 0])),
        (
            fuse::SETXATTR,
            [fuse::words(&[u32::MAX, 0]), fuse::name("user.a")].concat(),
        ),
        (
            fuse::GETXATTR,
            [fuse::words(&[u32::MAX, 0]), fuse::name("user.a")].concat(),
        ),
        (fuse::LISTXATTR, fuse::words(&[u32::MAX, 0])),
        (fuse::SYMLINK, b"only one\0".to_vec()),
        (fuse::RENAME2, [&handle[..], &[0xff; 8], b"a\0"].concat()),
        (fuse::CREATE, fuse::words(&[u32::MAX; 4])),
        (
            fuse::CREATE,
            [fuse::words(&[u32::MAX; 4]), fuse::name("x")].concat(),
        ),
        (fuse::SETATTR, vec![0xff; 88]),
        (fuse::FALLOCATE, vec![0xff; 32]),
        (fuse::COPY_FILE_RANGE, vec![0xff; 56]),
        (fuse::INIT, fuse::words(&[u32::MAX; 16])),
        (fuse::INIT, vec![]),
        (42 /* BATCH_FORGET */, fuse::words(&[u32::MAX, 0])),
        (fuse::FORGET, u64::MAX.to_le_bytes().to_vec()),
    ];
    for (opcode, body) in cases {
        attack(
            &format!("opcode {opcode}, {} bytes", body.len()),
            |device| {
                let (address, length) = request(device, opcode, &body);
                let answer = device.driver.memory.allocate(8192).unwrap();
                let buffers = [
                    Buffer::readable(address, length),
                    Buffer::writable(answer, 8192),
                ];
                let queue = &mut device.driver.queues[REQUESTS];
                queue.add(&buffers).unwrap();
                queue.kick_anyway().unwrap();
                // Some requests have no answer: a while is enough.
                let _ = queue.wait(Duration::from_millis(300));
            },
        );
    }
}

#[test]
fn a_request_without_room_for_its_answer_is_survived() {
    attack("no writable descriptor", |device| {
        let (address, length) = request(device, fuse::LOOKUP, b"f\0");
        let queue = &mut device.driver.queues[REQUESTS];
        queue.add(&[Buffer::readable(address, length)]).unwrap();
        queue.kick_anyway().unwrap();
        let _ = queue.wait(Duration::from_millis(300));
    });
    attack("no readable descriptor", |device| {
        let answer = device.driver.memory.allocate(8192).unwrap();
        let queue = &mut device.driver.queues[REQUESTS];
        queue.add(&[Buffer::writable(answer, 8192)]).unwrap();
        queue.kick_anyway().unwrap();
        let _ = queue.wait(Duration::from_millis(300));
    });
}

#[test]
fn handles_and_inodes_that_nobody_gave_out_are_errors() {
    let share = tempdir().unwrap();
    fs::write(share.path().join("f"), "").unwrap();
    let mut device = Device::start(share.path(), "");
    let inode = device.lookup(ROOT, "f").unwrap().inode;
    let handle = device.open(inode, O_RDWR).unwrap();
    for bad in [0, 2000, u64::MAX] {
        assert!(device.lookup(bad, "f").is_err());
        assert!(device.open(bad, O_RDONLY).is_err());
        assert!(device.attributes(bad).is_err());
        assert!(device.read(inode, bad.max(1000), 0, 16).is_err());
        assert!(
            device.read(bad, handle, 0, 16).is_err(),
            "somebody else's handle"
        );
        assert!(device.release(bad, handle).is_err());
    }
    assert_eq!(device.request(9999, ROOT, &[], 64), Err(ENOSYS));
    assert_ne!(device.lookup(inode, "x").unwrap_err(), EIO);
}

/// The honest client goes on between random requests; nothing outside the share may change.
#[test]
fn random_requests_change_nothing_outside_and_end_in_an_answer_or_an_exit() {
    let outside = tempdir().unwrap();
    let share = outside.path().join("share");
    fs::create_dir(&share).unwrap();
    fs::write(outside.path().join("canary"), "sings").unwrap();
    let mut device = Device::start(&share, "");
    let bodies = prop::collection::vec(
        prop_oneof![
            4 => Just(0u8),
            2 => Just(b'/'),
            2 => Just(b'.'),
            1 => Just(b'a'),
            1 => any::<u8>(),
        ],
        0..120,
    );
    let requests = (0u32..60, 0u64..4, bodies);
    let mut runner = TestRunner::new(Config::with_cases(800));
    let cell = std::cell::RefCell::new(&mut device);
    runner
        .run(&requests, |(opcode, inode, body)| {
            let mut device = cell.borrow_mut();
            if device.ended().is_some() {
                **device = Device::start(&share, "");
            }
            let answered = device.try_request(opcode, inode, &[&body], 8192);
            if answered.is_err() {
                let status = device.wait_for_end();
                prop_assert!(status.is_some_and(|status| status.code == Some(1)));
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(fs::read(outside.path().join("canary")).unwrap(), b"sings");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
}

#[test]
fn a_front_end_that_breaks_the_protocol_ends_the_device() {
    let share = tempdir().unwrap();
    let memory_without_a_file = [1, 0, 0, 0, 0, 0, 0, 0];
    let junk: [(u32, &[u8]); 3] = [
        (9999, &[0; 8]),
        (5, &[0xff; 4000]),
        (5, &memory_without_a_file),
    ];
    for (request, body) in junk {
        let mut device = Device::start(share.path(), "");
        let frontend = &device.driver.frontend;
        frontend.send_raw(request, 0, body, &[]).unwrap();
        // One that waits for the rest of a message ends with the connection.
        let _ = frontend.stream().shutdown(std::net::Shutdown::Write);
        assert!(device.wait_for_end().is_some(), "{request}");
    }
}

#[test]
fn descriptors_run_out_for_the_guest_alone() {
    let share = tempdir().unwrap();
    for n in 0..400 {
        fs::write(share.path().join(format!("f{n}")), "").unwrap();
    }
    let mut device = Device::start_unjailed(share.path(), "", 256);
    let mut refused = 0;
    for n in 0..400 {
        match device.lookup(ROOT, &format!("f{n}")) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, nix::libc::ENFILE);
                refused += 1;
            }
        }
    }
    assert!(refused > 200, "{refused}");
    assert!(device.attributes(ROOT).is_ok(), "it still serves");
}
