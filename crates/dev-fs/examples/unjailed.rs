//! Serves a directory without a jail, for tests and debuggers: what fails in the jail and works
//! here is the jail's fault. `unjailed SOCKET DIRECTORY [WORDS]`; the words are in
//! `tests/support/words.rs`.

#[path = "../tests/support/words.rs"]
mod words;

use std::error::Error;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;

use nix::libc::{O_DIRECTORY, O_PATH};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |what| arguments.next().ok_or(what);
    let parts = dev_fs::Parts {
        front_end: UnixListener::bind(argument("no socket")?)?,
        root: open(&argument("no directory")?)?,
        proc_self_fd: open("/proc/self/fd")?,
    };
    let config = words::config(&argument("").unwrap_or_default());
    // Nobody releases it: it serves until the front end is gone.
    dev_fs::serve(&config, parts, || {
        loop {
            std::thread::park();
        }
    })?;
    Ok(())
}

fn open(path: &str) -> std::io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .custom_flags(O_PATH | O_DIRECTORY)
        .open(path)?;
    Ok(file.into())
}
