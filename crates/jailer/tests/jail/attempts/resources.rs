//! More than its share.

use std::io;

use libc::{EAGAIN, EMFILE};

use super::{Attempt, Host, by, passed};
use crate::component::Hands;
use crate::layers::Layer::Limits;
use crate::raw::call;

/// More threads than any policy allows.
const THREADS: usize = 1200;

fn descriptors(hands: &Hands) -> io::Result<()> {
    // The limit is at most a million.
    for _ in 0..2_000_000 {
        call(libc::SYS_fcntl, &[&&hands.root, &libc::F_DUPFD_CLOEXEC, &0])?;
    }
    Ok(())
}

fn threads(_: &Hands) -> io::Result<()> {
    for _ in 0..THREADS {
        std::thread::Builder::new()
            .stack_size(1 << 14)
            .spawn(std::thread::park)?;
    }
    Ok(())
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    passed(
        "use_all_descriptors",
        &[by(Limits, &[EMFILE])],
        Host,
        descriptors,
    ),
    passed(
        "start_threads_without_end",
        &[by(Limits, &[EAGAIN])],
        Host,
        threads,
    ),
];
