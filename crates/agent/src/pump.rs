//! Bytes from one file descriptor to another, never more than one buffer of them in between.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags},
    sys::socket::{Shutdown, shutdown},
    unistd::{read, write},
};

/// Bytes on the way of one pump.
const BUFFER: usize = 64 << 10;

/// What is under way in one direction. Both ends must not block.
pub(crate) struct Pump {
    source: OwnedFd,
    sink: OwnedFd,
    buffer: Box<[u8]>,
    /// The part of the buffer that has been read and not yet written.
    start: usize,
    end: usize,
    /// What the source gives when nobody can write to it any more is its end; so is emptiness
    /// once this is set.
    ends_when_empty: bool,
    done: bool,
}

impl Pump {
    pub(crate) fn new(source: OwnedFd, sink: OwnedFd) -> nix::Result<Self> {
        nonblocking(source.as_fd())?;
        nonblocking(sink.as_fd())?;
        Ok(Self {
            source,
            sink,
            buffer: vec![0; BUFFER].into(),
            start: 0,
            end: 0,
            ends_when_empty: false,
            done: false,
        })
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// From now on the pump is done when the source has nothing to give.
    pub(crate) fn end_when_empty(&mut self) {
        self.ends_when_empty = true;
    }

    /// What to wait for: room to write what was read, else bytes to read, and then the sink's
    /// hang-up, which needs no flag. (A source that hung up is not waited for while the buffer is
    /// full: it would be reported over and over.)
    pub(crate) fn interest(&self) -> (Option<PollFd<'_>>, PollFd<'_>) {
        let idle = self.start == self.end;
        let sink = if idle {
            PollFlags::empty()
        } else {
            PollFlags::POLLOUT
        };
        (
            idle.then(|| PollFd::new(self.source.as_fd(), PollFlags::POLLIN)),
            PollFd::new(self.sink.as_fd(), sink),
        )
    }

    /// The sink hung up: nobody will take what is still to come.
    pub(crate) fn sink_hung_up(&mut self) {
        self.finish();
    }

    /// Moves bytes until one end would block, at most some buffers full.
    pub(crate) fn run(&mut self) {
        for _ in 0..16 {
            if self.done || !self.fill() || !self.drain() {
                return;
            }
        }
    }

    /// Reads if the buffer is empty; true if there is something to write.
    fn fill(&mut self) -> bool {
        if self.start < self.end {
            return true;
        }
        match read(&self.source, &mut self.buffer) {
            Ok(0) => self.finish(),
            Ok(count) => {
                self.start = 0;
                self.end = count;
                return true;
            }
            Err(Errno::EAGAIN) if !self.ends_when_empty => {}
            Err(Errno::EINTR) => {}
            // A terminal's master says EIO when the last slave is closed.
            Err(_) => self.finish(),
        }
        false
    }

    /// Writes what is in the buffer; true if all of it went.
    fn drain(&mut self) -> bool {
        let pending = self.buffer.get(self.start..self.end).unwrap_or_default();
        match write(&self.sink, pending) {
            Ok(count) => self.start = self.start.saturating_add(count).min(self.end),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.finish(),
        }
        self.start == self.end && !self.done
    }

    /// Tells both ends, as far as they are sockets; pipes learn it when the pump is dropped.
    fn finish(&mut self) {
        self.done = true;
        // An end that is gone already, or is no socket, needs no telling.
        let _ = shutdown(self.sink.as_raw_fd(), Shutdown::Write);
        let _ = shutdown(self.source.as_raw_fd(), Shutdown::Read);
    }
}

/// Whether a sink that was waited for is gone.
pub(crate) fn hung_up(sink: &PollFd<'_>) -> bool {
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    sink.revents().is_some_and(|events| events.intersects(gone))
}

fn nonblocking(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
