//! A network namespace with a TAP device, whose kernel is the guest or the host.

#![allow(unsafe_code, reason = "no safe call attaches to a TAP device")]
#![allow(clippy::print_stderr, reason = "what is skipped is said")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

pub mod pump;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use nix::libc;
use nix::sched::{CloneFlags, unshare};

/// Whether this may be tried; says so if not.
pub fn is_possible() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: network namespaces take root");
    }
    root
}

/// Moves this thread to a network namespace of its own.
pub fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
}

/// Runs `ip` in this thread's namespace.
pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .expect("iproute2 is not installed");
    assert!(status.success(), "ip {arguments}: {status}");
}

/// Makes the TAP device `tap0` in this thread's namespace, with `struct virtio_net_hdr`.
pub fn tap() -> OwnedFd {
    const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = [0_u8; 40];
    request[..4].copy_from_slice(b"tap0");
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request[16..18].copy_from_slice(&u16::try_from(flags).unwrap().to_ne_bytes());
    let size: libc::c_int = 12;
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which has 40 bytes.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    let sized = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) };
    assert_eq!(sized, 0, "{}", std::io::Error::last_os_error());
    file.into()
}

/// Lets the kernel leave checksums and segments to the other end of the TAP device.
pub fn offload(tap: &OwnedFd) {
    // TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6.
    let offloads: libc::c_ulong = 7;
    // SAFETY: TUNSETOFFLOAD takes a number.
    let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
