//! System calls by number, as an attacker who owns the process makes them.

#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// An argument of a system call: a number, a string, a descriptor.
pub(crate) trait Argument {
    /// As the register holds it.
    fn register(&self) -> libc::c_long;
}

impl Argument for i32 {
    fn register(&self) -> libc::c_long {
        (*self).into()
    }
}

impl Argument for i64 {
    fn register(&self) -> libc::c_long {
        *self
    }
}

impl Argument for &CStr {
    fn register(&self) -> libc::c_long {
        self.as_ptr()
            .expose_provenance()
            .cast_signed()
            .try_into()
            .unwrap()
    }
}

impl Argument for &OwnedFd {
    fn register(&self) -> libc::c_long {
        self.as_raw_fd().into()
    }
}

/// Memory that a call may read or write.
impl Argument for &mut [u64] {
    fn register(&self) -> libc::c_long {
        self.as_ptr()
            .expose_provenance()
            .cast_signed()
            .try_into()
            .unwrap()
    }
}

/// Makes system call `number`. Missing arguments are zero.
pub(crate) fn call(number: libc::c_long, arguments: &[&dyn Argument]) -> io::Result<libc::c_long> {
    let mut registers = [0; 6];
    for (register, argument) in registers.iter_mut().zip(arguments) {
        *register = argument.register();
    }
    let [a, b, c, d, e, f] = registers;
    // SAFETY: the attempts pass integers, strings and arrays that outlive the call, and no call
    // writes more than the arrays that it is given hold.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Makes a process with `flags` of clone; the new one ends at once.
pub(crate) fn fork(flags: i32) -> io::Result<()> {
    let pid = call(libc::SYS_clone, &[&(flags | libc::SIGCHLD)])?;
    if pid == 0 {
        // SAFETY: ends the copy without running anything of it.
        unsafe { libc::_exit(0) };
    }
    Ok(())
}

/// Keeps glibc from a heap for each thread: to count the CPUs for that, it opens a file.
#[cfg(target_env = "gnu")]
pub(crate) fn one_heap() {
    // SAFETY: integers only.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other C libraries have one anyway.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn one_heap() {}
