//! Fork and exec in a process with many threads.
//!
//! Between the two the child may only make system calls: another thread may have held the
//! allocator's lock, or any other, at the moment of the fork. So everything is laid out before.
#![expect(unsafe_code, reason = "fork and exec have no safe form")]

use std::{
    ffi::{CStr, CString, c_char},
    io::Read,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    unistd::{Pid, pipe2},
};

/// A process to be, with nothing left to decide.
pub(crate) struct Image {
    /// Paths to try in order, as a shell goes through `PATH`.
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    /// Directories to try in order.
    pub(crate) directories: Vec<CString>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups but `gid`. None leaves user and groups as they are.
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Standard input is a terminal and becomes the controlling one.
    pub(crate) terminal: bool,
}

/// Which of the child's steps failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Fork,
    Streams,
    User,
    Directory,
    Execute,
}

const STEPS: [Step; 5] = [
    Step::Fork,
    Step::Streams,
    Step::User,
    Step::Directory,
    Step::Execute,
];

/// The size of what a failed child reports: its step, then its error number.
const REPORT: usize = 5;

/// Starts the process in a session, and so a process group, of its own.
pub(crate) fn spawn(image: Image) -> Result<Pid, (Step, Errno)> {
    let early = |errno| (Step::Fork, errno);
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(early)?;
    let plan = Plan::new(&image, writer.as_raw_fd());
    // SAFETY: the child makes system calls on memory laid out before, and never returns.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        plan.become_it();
    }
    let pid = Errno::result(pid).map_err(early)?;
    drop(writer);
    let mut report = Vec::with_capacity(REPORT);
    // The pipe closes without a word when the exec succeeds. An unreadable pipe cannot be.
    let _ = std::fs::File::from(reader).read_to_end(&mut report);
    match report.split_first() {
        None => Ok(Pid::from_raw(pid)),
        Some((step, errno)) => {
            let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
            let step = STEPS.get(usize::from(*step)).copied().unwrap_or(Step::Fork);
            let number = errno.try_into().map_or(libc::EIO, i32::from_le_bytes);
            Err((step, Errno::from_raw(number)))
        }
    }
}

/// The image as the pointers and numbers that system calls take.
struct Plan<'a> {
    image: &'a Image,
    argv: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    report: RawFd,
}

impl<'a> Plan<'a> {
    fn new(image: &'a Image, report: RawFd) -> Self {
        let pointers = |strings: &[CString]| {
            let pointers = strings.iter().map(|string| string.as_ptr());
            pointers.chain([ptr::null()]).collect()
        };
        Self {
            argv: pointers(&image.argv),
            environment: pointers(&image.environment),
            image,
            report,
        }
    }

    /// In the child: no allocation, no lock, no return.
    fn become_it(&self) -> ! {
        let (step, errno) = match self.try_become() {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        // The discriminant is the index in `STEPS`; the order of both is the same.
        let [a, b, c, d] = (errno as i32).to_le_bytes();
        let report: [u8; REPORT] = [step as u8, a, b, c, d];
        // SAFETY: writes `REPORT` bytes of a live array to an open pipe.
        unsafe { libc::write(self.report, report.as_ptr().cast(), REPORT) };
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(127) }
    }

    fn try_become(&self) -> Result<std::convert::Infallible, (Step, Errno)> {
        self.streams().map_err(|errno| (Step::Streams, errno))?;
        expendable();
        self.user().map_err(|errno| (Step::User, errno))?;
        self.directory().map_err(|errno| (Step::Directory, errno))?;
        default_signals();
        // SAFETY: takes three integers. Descriptors past the streams close with the exec, those
        // of other threads too that were opened without the flag.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, CLOSE_RANGE_CLOEXEC) };
        Err((Step::Execute, self.execute()))
    }

    fn streams(&self) -> nix::Result<()> {
        // SAFETY: takes nothing. It cannot fail: a fresh child leads no process group.
        unsafe { libc::setsid() };
        let streams = [&self.image.stdin, &self.image.stdout, &self.image.stderr];
        for (to, from) in (0..).zip(streams) {
            // The descriptors are above 2 (the standard library opens those at start), so none is
            // overwritten before it is copied.
            // SAFETY: takes two integers.
            Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) })?;
        }
        if self.image.terminal {
            // SAFETY: TIOCSCTTY takes an integer: 0, do not steal.
            Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        }
        Ok(())
    }

    fn user(&self) -> nix::Result<()> {
        let Some(groups) = &self.image.groups else {
            return Ok(());
        };
        // The system calls, not the library's functions: those of the library stop all threads
        // to change them alike, and here is only one.
        // SAFETY: the array is alive and of this length.
        let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        Errno::result(result)?;
        let (uid, gid) = (self.image.uid, self.image.gid);
        // SAFETY: takes three integers.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
        // SAFETY: takes three integers.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
        Ok(())
    }

    fn directory(&self) -> nix::Result<()> {
        let mut last = Errno::ENOENT;
        for directory in &self.image.directories {
            // SAFETY: the string is alive and ends in zero.
            match Errno::result(unsafe { libc::chdir(directory.as_ptr()) }) {
                Ok(_) => return Ok(()),
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }

    /// Tries the candidates as `execvp` does: goes on where there is nothing or it may not be
    /// run, and prefers to report the latter.
    fn execute(&self) -> Errno {
        let mut failure = Errno::ENOENT;
        for candidate in &self.image.candidates {
            // SAFETY: the strings are alive and end in zero, both arrays in a null pointer.
            unsafe {
                libc::execve(
                    candidate.as_ptr(),
                    self.argv.as_ptr(),
                    self.environment.as_ptr(),
                )
            };
            match Errno::last() {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => failure = Errno::EACCES,
                other => return other,
            }
        }
        failure
    }
}

/// linux/close_range.h, Linux 5.11.
const CLOSE_RANGE_CLOEXEC: u32 = 4;

/// The size of the kernel's signal set in bytes.
const SIGNAL_SET: usize = 8;

/// Signals go back to their defaults, which exec does not do for ignored ones, and none is blocked.
/// By system calls: the libraries keep some real-time signals to themselves.
fn default_signals() {
    // The kernel's `sigaction`: handler, flags, restorer and set, 32 bytes; SIG_DFL is 0.
    let default = [0u64; 4];
    let nothing = ptr::null_mut::<u64>();
    for signal in 1..=64 {
        let action = default.as_ptr();
        // SAFETY: reads 32 bytes, writes nothing; the default action runs no code of ours.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action, nothing, SIGNAL_SET) };
    }
    let (how, none) = (libc::SIG_SETMASK, default.as_ptr());
    // SAFETY: reads 8 bytes, the size of the kernel's signal set, and writes nothing.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, none, nothing, SIGNAL_SET) };
}

/// The agent may not be killed when memory runs out; its commands may.
fn expendable() {
    const FILE: &CStr = c"/proc/self/oom_score_adj";
    // SAFETY: the path ends in zero.
    let fd = unsafe { libc::open(FILE.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd >= 0 {
        // SAFETY: writes one byte of a static string.
        unsafe { libc::write(fd, c"0".as_ptr().cast(), 1) };
        // SAFETY: the descriptor was opened here.
        unsafe { libc::close(fd) };
    }
}
