//! Bytes between the caller's standard streams and a command's.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// What a standard stream of a command is connected to, as [`std::process::Stdio`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Nothing: reads end at once, writes vanish.
    Null,
    /// A pipe to the caller, in [`crate::Child`].
    Piped,
    /// The caller's own stream of this name.
    Inherit,
}

/// How much is copied at a time: as much as a vsock packet of the Linux driver carries.
const CHUNK: usize = 64 << 10;

/// Copies a command's output to `sink` until it ends.
pub(crate) fn copy_out(
    mut stream: UnixStream,
    mut sink: impl Write + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    spawn("output", move || {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = read(&mut stream, &mut buffer) {
            let bytes = buffer.get(..length).unwrap_or_default();
            // Nobody reads any more: closing our end is what tells the command.
            if sink.write_all(bytes).and_then(|()| sink.flush()).is_err() {
                break;
            }
        }
    })
}

/// Copies `source` to a command's input until either ends.
pub(crate) fn copy_in(
    mut source: impl Read + AsFd + Send + 'static,
    mut stream: UnixStream,
) -> io::Result<JoinHandle<()>> {
    spawn("input", move || {
        let mut buffer = vec![0; CHUNK];
        while readable(source.as_fd(), &stream) {
            let Ok(length @ 1..) = read(&mut source, &mut buffer) else {
                break;
            };
            if stream
                .write_all(buffer.get(..length).unwrap_or_default())
                .is_err()
            {
                break;
            }
        }
        // It fails if the command has ended, and then there is nobody to tell.
        let _ = stream.shutdown(Shutdown::Write);
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(body)
}

fn read(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Waits until `source` can be read; false when the command's end of `stream` is closed instead.
fn readable(source: BorrowedFd<'_>, stream: &UnixStream) -> bool {
    loop {
        let mut fds = [
            PollFd::new(source, PollFlags::POLLIN),
            PollFd::new(stream.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(_) => return false,
            Ok(_) => {
                let [source, stream] = fds;
                return !stream.any().unwrap_or(false) && source.any().unwrap_or(false);
            }
        }
    }
}
