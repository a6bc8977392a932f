//! More than its share.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use libc::{EAGAIN, EMFILE, ENOMEM};

use super::{Attempt, Each, Host, SERVING, Work, by, filtered, passed};
use crate::component::Hands;
use crate::layers::Layer::Limits;
use crate::raw::{call, one_heap};

/// 2 GiB: more private memory than any policy allows.
const MEMORY: i64 = 1 << 31;

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
    one_heap();
    for _ in 0..THREADS {
        std::thread::Builder::new()
            .stack_size(1 << 14)
            .spawn(std::thread::park)?;
    }
    Ok(())
}

/// Not touched, so that it costs the host nothing where no limit stops it.
fn memory(_: &Hands) -> io::Result<()> {
    const STEP: i64 = 1 << 26;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    for _ in 0..MEMORY / STEP {
        call(libc::SYS_mmap, &[&0, &STEP, &access, &flags, &-1, &0])?;
    }
    Ok(())
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    filtered(
        SERVING,
        "use_all_descriptors",
        &[by(Limits, &[EMFILE])],
        Host,
        descriptors,
    ),
    Attempt {
        name: "start_threads_without_end",
        filter: SERVING,
        stops: Each {
            most: &[by(Limits, &[EAGAIN])],
            // User 0 of the first namespace, which dev-fs is if root starts it, has no such limit.
            others: &[("dev-fs", &[])],
        },
        end: Host,
        what: threads,
    },
    passed("run_without_end", &[], Work, |_| {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {}
        Ok(())
    }),
    passed(
        "take_memory_without_end",
        &[by(Limits, &[ENOMEM])],
        Work,
        memory,
    ),
    passed("fill_the_log", &[], Work, |_| {
        // Less than the pipe holds: nobody reads it here.
        io::stderr().write_all(&[b'x'; 1 << 12])
    }),
];
