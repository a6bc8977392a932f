//! What of a packet a TAP device's kernel may leave to the other end.

#![expect(unsafe_code, reason = "ioctl has no safe form")]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::libc;

/// Lets the kernel leave checksums and the cutting of TCP's segments to the other end, as a guest
/// does with a network card that takes them.
pub(crate) fn offload(tap: &OwnedFd) {
    // TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6.
    const OFFLOADS: libc::c_ulong = 0x7;
    // SAFETY: TUNSETOFFLOAD takes a number, not a pointer; no memory is touched.
    let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, OFFLOADS) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}
