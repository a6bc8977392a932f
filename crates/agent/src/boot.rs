//! Process 1: from the kernel's hand to a host that is served.

use std::{
    ffi::CString,
    fs,
    io::Write,
    os::fd::OwnedFd,
    process::{self, ExitCode},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, setrlimit},
        stat::{Mode, umask},
        time::TimeSpec,
        wait::{WaitStatus, wait},
    },
    time::{ClockId, clock_gettime},
    unistd::{AccessFlags, Pid, access, execve, sethostname},
};
use wire::{
    agent::{PORT, READY_PORT, Ready, SETUP_PATH, Setup, Shutdown, VERSION},
    frame,
};

use crate::{
    error::{Error, Result, cannot, errno},
    modules, mounts, names, network, parts, root,
    serve::Agent,
    shutdown, sys, vsock,
};

/// Open files: what programs get without asking, and what they may ask for.
const OPEN_FILES: (u64, u64) = (65_536, 1 << 20);

/// The whole of a guest's init. Returns only if it is not process 1.
#[must_use]
pub fn run() -> ExitCode {
    if process::id() != 1 {
        let _ = writeln!(std::io::stderr(), "crumble-agent is the init of a guest");
        return ExitCode::from(2);
    }
    let init_at = since_boot();
    umask(Mode::from_bits_truncate(0o022));
    // Its failure shows when the first device is needed; without it nobody could be told.
    let early = mounts::early_dev().and_then(|()| modules::load());
    let setup = early.and_then(|()| set_up());
    match sys::fork_single_threaded() {
        Ok(Some(server)) => {
            let init = setup.ok().and_then(|prepared| prepared.init);
            if let Some(error) = init.map(|path| hand_over(&path)) {
                log(Level::Error, &error);
            }
            reap(server)
        }
        Ok(None) => {
            // On the console first: without a vsock device the host hears nothing else.
            let report = |error: &Error| log(Level::Error, error);
            setup.as_ref().err().into_iter().for_each(report);
            serve(init_at, setup)
                .as_ref()
                .err()
                .into_iter()
                .for_each(report);
            ExitCode::FAILURE
        }
        Err(errno) => {
            log(Level::Error, &cannot("fork")(errno));
            shutdown::end(Shutdown::PowerOff)
        }
    }
}

/// What the setup leaves to be done.
struct Prepared {
    /// The overlay's upper directory, if the root is one, and whether it is kept.
    upper: Option<(OwnedFd, bool)>,
    /// Who becomes process 1.
    init: Option<String>,
}

fn set_up() -> Result<Prepared> {
    let action = "read the machine's setup";
    let bytes = fs::read(SETUP_PATH).map_err(|e| cannot(action)(errno(&e)))?;
    let setup: Setup = wire::decode(&bytes).map_err(|source| Error::Message { action, source })?;
    if setup.version != VERSION {
        let (host, agent) = (setup.version, VERSION);
        return Err(Error::Version { host, agent });
    }
    let upper = root::enter(&setup.root)?;
    mounts::pseudo_file_systems()?;
    for path in &setup.directories {
        mounts::directory(path, 0o755)?;
    }
    setup.shares.iter().try_for_each(mounts::share)?;
    setup.mounts.iter().try_for_each(parts::mount)?;
    sethostname(&setup.hostname).map_err(cannot("set the host name"))?;
    name(&setup);
    let (soft, hard) = OPEN_FILES;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(cannot("raise the limit of files"))?;
    network::set_up(setup.network.as_ref())?;
    if setup.terminal {
        await_terminal();
    }
    let init = setup.init;
    Ok(Prepared { upper, init })
}

/// What a guest is better for, and runs without: failures go to the log.
fn name(setup: &Setup) {
    let resolver = setup.network.as_ref().map_or(Ok(()), names::resolver);
    for error in [names::hosts(setup), resolver]
        .iter()
        .filter_map(|result| result.as_ref().err())
    {
        log(Level::Warning, error);
    }
}

/// The server's life, which ends by a shutdown, or at once if there is nothing to serve.
fn serve(init_at: u64, setup: Result<Prepared>) -> Result<()> {
    // Commands are expendable when memory runs out, the line to the host is not.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let listener = vsock::listener(PORT)?;
    let setup = setup.and_then(|prepared| {
        prepared.init.as_deref().map_or(Ok(()), await_init)?;
        Ok(prepared)
    });
    let setup = setup.map_err(|error| wire::chain(&error));
    announce(&Ready {
        version: VERSION,
        setup: setup.as_ref().map(|_| ()).map_err(Clone::clone),
        init_at,
        ready_at: since_boot(),
    })?;
    let agent = match setup {
        Ok(Prepared { upper, .. }) => upper.map_or_else(Agent::new, |(upper, kept)| {
            if kept {
                Agent::with_kept(upper)
            } else {
                Agent::with_upper(upper)
            }
        }),
        Err(_) => return Ok(()),
    };
    loop {
        match vsock::accept(&listener) {
            // Without memory for a thread the connection closes, and the host may try again.
            Ok(connection) => drop(agent.serve(connection)),
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(errno) => return Err(cannot("accept a connection")(errno)),
        }
    }
}

fn announce(ready: &Ready) -> Result<()> {
    let host = vsock::connect_to_host(READY_PORT)?;
    let action = "tell the host that the agent is ready";
    frame::write(&host, ready).map_err(|source| Error::Message { action, source })
}

/// Waits until the root's own init can be asked for something. If it does not get that far in time, commands
/// are served all the same: they may find out why.
fn await_init(path: &str) -> Result<()> {
    let failed = |errno| cannot(format!("execute {path} as process 1"))(errno);
    access(path, AccessFlags::X_OK).map_err(failed)?;
    let begin = Instant::now();
    while let Some(limit) = patience_with_init()
        && begin.elapsed() < limit
    {
        thread::sleep(Duration::from_millis(5));
    }
    match shutdown::is_ours("/proc/1/exe") {
        true => Err(failed(Errno::ENOEXEC)),
        false => Ok(()),
    }
}

/// How long after its start to wait for what process 1 is now; `None` if it is up.
fn patience_with_init() -> Option<Duration> {
    if shutdown::is_ours("/proc/1/exe") {
        // It is about to be executed, or cannot be.
        return Some(Duration::from_secs(10));
    }
    let systemd = fs::read_link("/proc/1/exe").is_ok_and(|path| path.ends_with("systemd"));
    // It listens there as soon as it takes requests, before it starts the first unit. Others do not tell.
    let starting = systemd && !fs::exists("/run/systemd/private").unwrap_or(false);
    starting.then_some(Duration::from_secs(30))
}

/// Driver and device agree on the terminal while the guest goes on, and an init looks for it once.
fn await_terminal() {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) && !fs::exists("/dev/hvc0").unwrap_or(false) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Makes the root's own init of this process, which returns only if that fails.
fn hand_over(path: &str) -> Error {
    sys::default_sigpipe();
    let failed = cannot(format!("execute {path} as process 1"));
    let Ok(program) = CString::new(path) else {
        return failed(Errno::EINVAL);
    };
    let environment = [
        c"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        c"HOME=/",
        c"TERM=linux",
    ];
    match execve(&program, &[&program], &environment) {
        Err(errno) => failed(errno),
    }
}

/// Takes the exit status of every orphan; without the server there is no use in a machine.
fn reap(server: Pid) -> ! {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) if pid == server => {
                shutdown::end(Shutdown::PowerOff)
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Of syslog(2). Errors reach the console.
#[derive(Clone, Copy)]
enum Level {
    Error = 3,
    Warning = 4,
}

/// Writes to the kernel's log.
fn log(level: Level, error: &Error) {
    let line = format!("<{}>crumble-agent: {}\n", level as u8, wire::chain(error));
    // Nobody is left to be told that this failed.
    let _ = fs::write("/dev/kmsg", line);
}

/// Microseconds since the kernel's boot.
fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or(TimeSpec::new(0, 0));
    u64::try_from(Duration::from(now).as_micros()).unwrap_or(u64::MAX)
}
