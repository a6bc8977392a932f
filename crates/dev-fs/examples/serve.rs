//! Serves a directory by hand, to QEMU for instance: `serve SOCKET DIRECTORY [WORDS]`, jailed as the
//! supervisor does it, or `serve --unjailed ...` for tests and debuggers: what fails in the jail and
//! works without is the jail's fault. The words are in `tests/support/words.rs`.

#[path = "../tests/support/words.rs"]
mod words;

use std::error::Error;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::Duration;

use handoff::Channel;
use jailer::Launch;
use nix::libc::{O_DIRECTORY, O_PATH};
use wire::fs::Config;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let jailed = arguments.next_if_eq("--unjailed").is_none();
    let mut argument = |what| arguments.next().ok_or(what);
    let listener = UnixListener::bind(argument("no socket")?)?;
    let root = open(&argument("no directory")?)?;
    let config = words::config(&argument("").unwrap_or_default());
    if jailed {
        return serve_jailed(&config, &listener, &root);
    }
    let parts = dev_fs::Parts {
        front_end: listener,
        root,
        journal: words::journal().into(),
        proc_self_fd: open("/proc/self/fd")?,
    };
    // Nobody releases it: it serves until the front end is gone.
    dev_fs::serve(&config, parts, || {
        loop {
            std::thread::park();
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the device's program, which is expected beside this one, until it ends.
fn serve_jailed(
    config: &Config,
    listener: &UnixListener,
    root: &OwnedFd,
) -> Result<ExitCode, Box<dyn Error>> {
    let here = std::env::current_exe()?;
    let program = here.parent().ok_or("no folder")?;
    let (control, theirs) = Channel::pair()?;
    let mut process = jailer::spawn(Launch {
        policy: policy::component("dev-fs").ok_or("no policy")?,
        program: File::open(program.join("../crumble-dev-fs"))?.as_fd(),
        title: "crumble-dev-fs: by hand",
        stderr: std::io::stderr().as_fd(),
        channel: theirs,
    })?;
    let journal = words::journal();
    let resources = [
        ("vhost-user".to_owned(), listener.as_fd()),
        ("root".to_owned(), root.as_fd()),
        ("journal".to_owned(), journal.as_fd()),
    ];
    handoff::start(&control, config, &resources)?;
    handoff::await_ready(&control, Duration::from_secs(10))?;
    match process.wait(None)? {
        Some(jailer::Exit::Code(code)) => Ok(ExitCode::from(u8::try_from(code)?)),
        exit => Err(format!("the device ended: {exit:?}").into()),
    }
}

fn open(path: &str) -> std::io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .custom_flags(O_PATH | O_DIRECTORY)
        .open(path)?;
    Ok(file.into())
}
