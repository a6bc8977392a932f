//! The calls that no safe interface covers.
#![expect(unsafe_code, reason = "fork and ioctl have no safe form")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::signal::{SigHandler, Signal, signal},
    unistd::{ForkResult, Pid, fork},
};
use wire::agent::{Exit, Size};

/// Forks process 1, which has one thread. Returns the child's id in the parent, none in the child.
pub(crate) fn fork_single_threaded() -> nix::Result<Option<Pid>> {
    // SAFETY: the child may use the whole of the standard library because no other thread exists
    // that could hold a lock; the caller is `boot::run`, whose helper threads have been joined.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Undoes what the standard library does to a program at its start, for the one that takes its
/// place.
pub(crate) fn default_sigpipe() {
    // SAFETY: no handler of ours is set or replaced.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

/// A file descriptor that becomes readable when this child of ours ends.
pub(crate) fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor (close-on-exec), nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes the next connection of a listening socket.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let (nobody, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
    let listener = listener.as_raw_fd();
    // SAFETY: the peer's address is not asked for, so nothing is written.
    let fd = unsafe { libc::accept4(listener, nobody, nothing, libc::SOCK_CLOEXEC) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets a terminal's size.
pub(crate) fn set_terminal_size(terminal: BorrowedFd<'_>, size: Size) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one `winsize`, which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).map(drop)
}

/// Sends a signal, real-time ones included, to the process group that this process leads.
pub(crate) fn signal_group(leader: Pid, signal: i32) {
    // SAFETY: takes two integers. It fails if the number is no signal or the group is empty, and
    // then there is nobody to tell.
    unsafe { libc::killpg(leader.as_raw(), signal) };
}

/// Sends a signal, real-time ones included, to one process.
pub(crate) fn signal_process(pid: Pid, signal: i32) {
    // SAFETY: takes two integers. If there is no such process there is nobody to tell.
    unsafe { libc::kill(pid.as_raw(), signal) };
}

/// Takes the exit status of a child that has ended.
pub(crate) fn wait(child: Pid) -> nix::Result<Exit> {
    let mut status = 0;
    loop {
        // SAFETY: writes one integer that outlives the call.
        let result = unsafe { libc::waitpid(child.as_raw(), &raw mut status, 0) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) if libc::WIFSIGNALED(status) => return Ok(Exit::Signal(libc::WTERMSIG(status))),
            Ok(_) => {
                let code = u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX);
                return Ok(Exit::Code(code));
            }
        }
    }
}
