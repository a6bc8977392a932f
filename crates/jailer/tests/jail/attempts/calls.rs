//! Calls that several attempts make.

use std::ffi::CStr;
use std::io;

use libc::{AT_FDCWD, c_long};

use crate::component::Hands;
use crate::raw::{Argument, call};

/// A call whose result says nothing but that it worked.
pub(super) fn make(number: c_long, arguments: &[&dyn Argument]) -> io::Result<()> {
    call(number, arguments).map(drop)
}

pub(super) fn open(path: &CStr, flags: i32) -> io::Result<()> {
    make(libc::SYS_openat, &[&AT_FDCWD, &path, &flags, &0o666])
}

/// Opens what is called `path` from the shared directory.
pub(super) fn open_at(hands: &Hands, path: &CStr, flags: i32) -> io::Result<()> {
    make(libc::SYS_openat, &[&&hands.root, &path, &flags, &0o666])
}

pub(super) fn unshare(flags: i32) -> io::Result<()> {
    make(libc::SYS_unshare, &[&flags])
}

pub(super) fn prctl(option: i32, value: i32) -> io::Result<()> {
    make(libc::SYS_prctl, &[&option, &value, &0, &0, &0])
}

pub(super) fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<c_long> {
    call(libc::SYS_socket, &[&domain, &kind, &protocol])
}

/// `bytes` as they lie in memory, with nulls after them.
pub(super) fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_ne_bytes(whole);
    }
    words
}

/// Where an array lies.
pub(super) fn address(memory: &mut [u64]) -> u64 {
    memory.as_mut_ptr().expose_provenance() as u64
}
