//! Carries packets between a TAP device and the device under test, so that a kernel is the guest.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dev_net::header::Header;

use crate::guest::Guest;

/// A pump, which stops when it is dropped.
pub struct Pump {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    pub fn start(mut guest: Guest, tap: OwnedFd) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut tap = nonblocking(tap);
            while !stopped.load(Ordering::Relaxed) {
                let up = from_tap(&mut tap, &mut guest);
                let down = to_tap(&mut guest, &mut tap);
                if !up && !down {
                    let fds = [tap.as_fd(), guest.driver.queues[0].call_fd()];
                    vq_driver::await_readable(&fds, Duration::from_millis(10)).unwrap();
                    guest.driver.queues[0].drain_call();
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn nonblocking(tap: OwnedFd) -> std::fs::File {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&tap, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).unwrap();
    tap.into()
}

fn from_tap(tap: &mut std::fs::File, guest: &mut Guest) -> bool {
    let mut buffer = vec![0; 66_000];
    let mut any = false;
    while guest.may_send() {
        match tap.read(&mut buffer) {
            Ok(length) => guest.send_raw(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        any = true;
    }
    if any {
        guest.driver.queues[1].kick().unwrap();
    }
    any
}

fn to_tap(guest: &mut Guest, tap: &mut std::fs::File) -> bool {
    guest.poll();
    let any = !guest.received.is_empty();
    for (header, frame) in guest.received.drain(..) {
        let header = Header {
            buffers: 0,
            ..header
        };
        // A kernel that does not take it loses it.
        let _ = tap.write(&[&header.encode()[..], &frame].concat());
    }
    any
}
