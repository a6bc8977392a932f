//! The system calls that have no safe wrapper.
//!
//! Those that [`crate::child`] uses allocate nothing and take no lock: between clone3 and exec the
//! process is a copy of one thread of a program that may have had many.

#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_char, c_int, c_long, c_uint, c_ulong};
use policy::Instruction;

/// What a raw system call returned, as a result.
fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// A descriptor that a system call just made.
fn owned(result: c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just returned this descriptor as a new one; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A duplicate of `fd` with a number of at least `lowest`, closed by an exec.
pub(crate) fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    let command = libc::F_DUPFD_CLOEXEC;
    // SAFETY: integers only.
    owned(unsafe { libc::syscall(libc::SYS_fcntl, fd.as_raw_fd(), command, lowest) })
}

/// Sends a signal to the process of a pidfd.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = ptr::null::<libc::siginfo_t>();
    let fd = pidfd.as_raw_fd();
    // SAFETY: without a siginfo, integers only.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) }).map(drop)
}

/// The two sides of [`clone_process`].
pub(crate) enum Cloned {
    /// In the new process.
    Child,
    /// In the old one: the child's process id, and a descriptor of it.
    Parent(i32, OwnedFd),
}

/// Makes a new process, a copy of the calling thread, with `flags` of clone3, in a cgroup.
///
/// In the child only what is async-signal-safe may run; see the module's head. Handlers of signals
/// are reset there.
pub(crate) fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: c_int = -1;
    // CLONE_CLEAR_SIGHAND (`linux/sched.h`): no handler of the parent's runs in the child.
    const CLEAR_SIGHAND: u64 = 1 << 32;
    // SAFETY: clone_args is a C struct of integers, for which zeros are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | CLEAR_SIGHAND | 0x1000; // CLONE_PIDFD
    args.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    args.exit_signal = 17; // SIGCHLD
    if let Some(cgroup) = cgroup {
        args.flags |= 1 << 33; // CLONE_INTO_CGROUP
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    let size = size_of::<libc::clone_args>();
    // SAFETY: without CLONE_VM the child has its own copy of everything, so it returns here like
    // the parent; `args` is valid for `size` bytes and `pidfd` for a descriptor.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel stored a new descriptor.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent(i32::try_from(pid).unwrap_or(-1), pidfd))
}

/// Ends the calling process at once.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code) }
}

/// Reads one byte; `false` at the end of the stream.
pub(crate) fn read_byte(fd: RawFd) -> io::Result<bool> {
    let mut byte = 0_u8;
    // SAFETY: `byte` is valid for the one byte that may be written.
    let count = check(unsafe { libc::syscall(libc::SYS_read, fd, &raw mut byte, 1) })?;
    Ok(count == 1)
}

/// Writes all of a few bytes, or not.
pub(crate) fn write_bytes(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the kernel reads `bytes.len()` bytes from where `bytes` points.
    unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) };
}

/// Becomes user and group 0 of the own user namespace.
pub(crate) fn become_root(drop_groups: bool) -> io::Result<()> {
    if drop_groups {
        let none = ptr::null::<libc::gid_t>();
        // SAFETY: a count of zero: nothing is read.
        check(unsafe { libc::syscall(libc::SYS_setgroups, 0_usize, none) })?;
    }
    // SAFETY: integers only. The raw call changes the one thread that there is.
    check(unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) })?;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) })?;
    Ok(())
}

/// `setsid(2)`.
pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::syscall(libc::SYS_setsid) }).map(drop)
}

/// Makes `to` the same open file as `from`, kept over an exec.
pub(crate) fn place_descriptor(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: integers only; the caller owns both numbers in a process that is about to exec.
    check(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) }).map(drop)
}

/// Marks every descriptor from `first` on to be closed by an exec.
pub(crate) fn close_from_at_exec(first: c_uint) -> io::Result<()> {
    let flags = 4; // CLOSE_RANGE_CLOEXEC
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, flags) }).map(drop)
}

/// Lets all signals through.
pub(crate) fn unblock_signals() -> io::Result<()> {
    let none = 0_u64;
    let old = ptr::null_mut::<u64>();
    let how = libc::SIG_SETMASK;
    // SAFETY: the kernel reads a set of 8 bytes, the size of `none`, and writes nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const none, old, 8_usize) };
    check(result).map(drop)
}

/// Executes the open program `fd`. `argv` and `envp` end with null.
pub(crate) fn execute(fd: RawFd, argv: &[*const c_char], envp: &[*const c_char]) -> io::Error {
    let ended = |list: &[*const c_char]| list.last().is_some_and(|last| last.is_null());
    if !ended(argv) || !ended(envp) {
        return io::Error::from_raw_os_error(libc::EINVAL);
    }
    // SAFETY: both lists end with null, and the callers' strings outlive the call (they are
    // pointers into `CString`s of `outside::Prepared`).
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Sets both limits of a resource of another process.
pub(crate) fn limit_process(pid: i32, resource: u32, most: u64) -> io::Result<()> {
    let limit = [most, most];
    let old = ptr::null_mut::<u64>();
    // SAFETY: `struct rlimit64` is two u64; the kernel reads one and writes nothing.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, old) })
        .map(drop)
}

/// The highest value that a limit of the calling process may be raised to.
pub(crate) fn hard_limit(resource: u32) -> io::Result<u64> {
    let mut limit = [0_u64; 2];
    let new = ptr::null::<u64>();
    // SAFETY: `struct rlimit64` is two u64; the kernel writes one and reads nothing.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut limit) })?;
    let [_, hard] = limit;
    Ok(hard)
}

/// Whether the process has no other thread. Sharing nothing with other threads is what this flag
/// of unshare asks for, and it fails if there are any.
pub(crate) fn is_single_threaded() -> bool {
    // SAFETY: integers only; it changes nothing.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_THREAD) }).is_ok()
}

/// `prctl(2)` with integers.
pub(crate) fn control(option: c_int, a: c_ulong, b: c_ulong) -> io::Result<c_long> {
    // SAFETY: the options that `inside` passes take integers; unused arguments are zero, as some
    // of them demand.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, 0, 0) })
}

/// Names the calling thread.
pub(crate) fn name_thread(name: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads a string of at most 16 bytes up to its null.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) })
        .map(drop)
}

/// Sets the calling thread's effective and permitted capabilities, and empties the inheritable.
pub(crate) fn set_capabilities(keep: u64) -> io::Result<()> {
    let low = u32::try_from(keep & 0xffff_ffff).unwrap_or(0);
    let high = u32::try_from(keep >> 32).unwrap_or(0);
    // `struct __user_cap_header_struct` with _LINUX_CAPABILITY_VERSION_3, then two of
    // `struct __user_cap_data_struct`: effective, permitted, inheritable (`linux/capability.h`).
    let header: [u32; 2] = [0x2008_0522, 0];
    let data: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: for this version the kernel reads 8 bytes and 24 bytes, and may write the header's
    // version only for a version that it does not know; this one exists since Linux 2.6.26.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// Installs a filter on every thread of the process.
pub(crate) fn install_filter(program: &'static [Instruction]) -> io::Result<()> {
    if set_filter(program, libc::SECCOMP_FILTER_FLAG_TSYNC)? > 0 {
        return Err(io::Error::other("a thread has a filter of its own"));
    }
    Ok(())
}

/// `seccomp(2)`, `SECCOMP_SET_MODE_FILTER`.
fn set_filter(program: &'static [Instruction], flags: c_ulong) -> io::Result<c_long> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len: length,
        // The kernel does not write to it.
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `Instruction` has the layout of `sock_filter`, `len` is their number, and both
    // outlive the call, in which the kernel copies them.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
}

#[cfg(feature = "trace")]
pub(crate) use notify::{
    Notified, answer_notification, fork_sharing_descriptors, install_listener, receive_notification,
};

/// Hearing of system calls (seccomp_unotify(2)).
#[cfg(feature = "trace")]
mod notify {
    use super::{Instruction, OwnedFd, RawFd, c_ulong, check, io, owned, set_filter};

    /// A system call that waits for an answer.
    pub(crate) struct Notified {
        pub(crate) id: u64,
        pub(crate) number: i32,
        pub(crate) arguments: [u64; 6],
    }

    /// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)`.
    const RECEIVE: c_ulong = 0xc050_2100;
    const SEND: c_ulong = 0xc018_2101;

    /// Installs a filter whose notifications are read from the descriptor that it returns.
    pub(crate) fn install_listener(program: &'static [Instruction]) -> io::Result<OwnedFd> {
        owned(set_filter(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?)
    }

    /// A copy of this process that has one thread and shares its descriptors; true in the copy.
    pub(crate) fn fork_sharing_descriptors() -> io::Result<bool> {
        // SAFETY: without CLONE_VM the copy has its own memory and returns here; the caller has one
        // thread, so no lock is held in it.
        let pid = check(unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES, 0, 0, 0, 0) })?;
        Ok(pid == 0)
    }

    /// Waits for the next call.
    pub(crate) fn receive_notification(listener: RawFd) -> io::Result<Notified> {
        // `struct seccomp_notif`: id, pid and flags, then `struct seccomp_data`: number and
        // architecture, instruction pointer, six arguments.
        let mut words = [0_u64; 10];
        // SAFETY: the kernel writes 80 bytes, the array's size, and wants them to be zero before.
        check(i64::from(unsafe {
            libc::ioctl(listener, RECEIVE as _, words.as_mut_ptr())
        }))?;
        let [id, _, number, _, arguments @ ..] = words;
        let [a, b, c, d, ..] = number.to_ne_bytes();
        Ok(Notified {
            id,
            number: i32::from_ne_bytes([a, b, c, d]),
            arguments,
        })
    }

    /// Lets a call go on, or refuses it with ENOSYS.
    pub(crate) fn answer_notification(listener: RawFd, id: u64, refuse: bool) -> io::Result<()> {
        // `struct seccomp_notif_resp`: id, value, error and flags; SECCOMP_USER_NOTIF_FLAG_CONTINUE.
        let error = if refuse { -libc::ENOSYS } else { 0 };
        let [a, b, c, d] = error.to_ne_bytes();
        let [e, f, g, h] = u32::from(!refuse).to_ne_bytes();
        let words = [id, 0, u64::from_ne_bytes([a, b, c, d, e, f, g, h])];
        // SAFETY: the kernel reads 24 bytes, the array's size.
        check(i64::from(unsafe {
            libc::ioctl(listener, SEND as _, words.as_ptr())
        }))
        .map(drop)
    }
}

/// `fsopen(2)`.
pub(crate) fn open_file_system(kind: &CStr) -> io::Result<OwnedFd> {
    let flags = 1; // FSOPEN_CLOEXEC
    // SAFETY: a string and an integer.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), flags) })
}

/// The commands of `fsconfig(2)` that are used here (`linux/mount.h`).
pub(crate) enum Configure<'a> {
    /// FSCONFIG_SET_FLAG.
    Flag(&'a CStr),
    /// FSCONFIG_SET_STRING.
    Value(&'a CStr, &'a CStr),
    /// FSCONFIG_CMD_CREATE.
    Create,
}

/// `fsconfig(2)`.
pub(crate) fn configure(fs: BorrowedFd<'_>, what: Configure<'_>) -> io::Result<()> {
    let (command, key, value) = match what {
        Configure::Flag(key) => (0, key.as_ptr(), ptr::null()),
        Configure::Value(key, value) => (1, key.as_ptr(), value.as_ptr()),
        Configure::Create => (6, ptr::null(), ptr::null()),
    };
    // SAFETY: each command reads the strings that are not null here, and no others.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, key, value, 0) })
        .map(drop)
}

/// `fsmount(2)`, with `attributes` of `linux/mount.h`.
pub(crate) fn mount_detached(fs: BorrowedFd<'_>, attributes: c_uint) -> io::Result<OwnedFd> {
    let flags = 1; // FSMOUNT_CLOEXEC
    // SAFETY: integers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), flags, attributes) })
}

/// Attaches a detached mount on top of `/`.
pub(crate) fn attach_on_root(mount: BorrowedFd<'_>) -> io::Result<()> {
    attach(mount, c"/")
}

/// Attaches a detached mount at a path.
pub(crate) fn attach(mount: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let flags = 4; // MOVE_MOUNT_F_EMPTY_PATH
    // SAFETY: integers and two strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// A detached mount of the directory at `path` alone: no path leads up from it.
pub(crate) fn clone_directory(path: &CStr) -> io::Result<OwnedFd> {
    let flags = 1 | libc::O_CLOEXEC; // OPEN_TREE_CLONE
    // SAFETY: integers and a string.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Makes the working directory, a mount, the root, and lets go of the old one.
pub(crate) fn pivot_into_working_directory() -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: two strings. The old root ends up on top of the new one.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })?;
    // SAFETY: a string and an integer.
    check(unsafe { libc::syscall(libc::SYS_umount2, here, libc::MNT_DETACH) }).map(drop)
}

/// A detached mount of the directory at `path` and of everything mounted below it.
pub(crate) fn clone_tree(path: &CStr) -> io::Result<OwnedFd> {
    let flags = 1 | libc::AT_RECURSIVE | libc::O_CLOEXEC; // OPEN_TREE_CLONE
    // SAFETY: integers and a string.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// On every mount of a tree: no set-user-id, no devices, and perhaps no writing and no execution.
pub(crate) fn restrict_mounts(
    tree: BorrowedFd<'_>,
    read_only: bool,
    execute: bool,
) -> io::Result<()> {
    let no_execution = if execute { 0 } else { 0x8 };
    // `struct mount_attr`: what to set, what to clear, propagation, a user namespace.
    let attributes = [0x2 | 0x4 | no_execution | u64::from(read_only), 0, 0, 0];
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the array is as large as said, has the structure's layout, and is only read.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    })
    .map(drop)
}

/// The version of Landlock that the kernel offers, 1 or more; none if it offers none
/// (landlock_create_ruleset(2), `LANDLOCK_CREATE_RULESET_VERSION`).
#[must_use]
pub fn landlock_abi() -> Option<u32> {
    const VERSION: c_long = 1;
    // SAFETY: with this flag the kernel takes no pointer and only answers.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) };
    u32::try_from(abi).ok().filter(|abi| *abi > 0)
}
