//! What the kernel says about a jailed process, and what becomes of it.

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use handoff::Channel;
use jailer::{Error, Exit, Launch, Process};
use libtest_mimic::{Failed, Trial};

use crate::host::{self, COMPONENTS, Deed, Jailed, Order, Outcome, TITLE};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for component in COMPONENTS {
        let mut add = |name: &str, test: fn(&str) -> Result<(), Failed>| {
            trials.push(Trial::test(
                format!("{component}::state::{name}"),
                move || test(component),
            ));
        };
        add("the_kernel_confirms_every_layer", every_layer);
        add("it_holds_only_what_it_was_handed", descriptors);
        add("it_has_the_namespaces_of_its_policy", namespaces);
        add("dropping_it_kills_it", dropped);
        add("it_ends_with_the_thread_that_started_it", orphaned);
        add("it_answers_once_its_jail_is_closed", answers);
    }
    trials.push(Trial::test("two_components_have_two_users", two_users));
    for (name, test) in [
        (
            "a_program_that_may_not_be_executed_is_named",
            not_executable as fn() -> _,
        ),
        ("a_file_that_is_no_program_is_named", no_program),
        ("a_program_that_ends_at_once_is_reported", ends_at_once),
        ("a_title_with_a_null_is_refused", bad_title),
    ] {
        trials.push(Trial::test(name, test));
    }
    trials
}

fn jailed(component: &str) -> Result<Jailed, Failed> {
    Jailed::start(&Order::new(component, &[])?)
}

fn ensure(holds: bool, message: impl Into<String>) -> Result<(), Failed> {
    if holds {
        Ok(())
    } else {
        Err(message.into().into())
    }
}

/// One line of `/proc/PID/status`.
fn status(process: &Process, name: &str) -> Result<String, Failed> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.ok_or("no such line")?.trim().to_owned())
}

fn every_layer(component: &str) -> Result<(), Failed> {
    let policy = policy::component(component).ok_or("no such policy")?;
    let jailed = jailed(component)?;
    let keep = policy
        .capabilities
        .iter()
        .fold(0, |set, line| set | 1_u64 << line.value.number());
    let expected = [
        ("Seccomp", "2".to_owned()),
        ("Seccomp_filters", "2".to_owned()),
        ("NoNewPrivs", "1".to_owned()),
        ("Threads", "1".to_owned()),
        ("Name", component.to_owned()),
        ("CapEff", format!("{keep:016x}")),
        ("CapPrm", format!("{keep:016x}")),
        ("CapBnd", format!("{keep:016x}")),
        ("CapInh", format!("{:016x}", 0)),
        ("CapAmb", format!("{:016x}", 0)),
        ("Groups", String::new()),
    ];
    for (name, value) in expected {
        let seen = status(&jailed.process, name)?;
        // An ordinary user keeps the groups that it cannot drop.
        if name == "Groups" && !nix::unistd::Uid::effective().is_root() {
            continue;
        }
        ensure(seen == value, format!("{name} is `{seen}`, not `{value}`"))?;
    }
    let pid = jailed.process.pid();
    let title = fs::read(format!("/proc/{pid}/cmdline"))?;
    ensure(
        title == [TITLE.as_bytes(), b"\0"].concat(),
        "the title is another",
    )
}

fn descriptors(component: &str) -> Result<(), Failed> {
    // A descriptor that is not close-on-exec must not arrive either.
    let leak = fs::File::open("/dev/zero")?;
    nix::fcntl::fcntl(
        &leak,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )?;
    let jailed = jailed(component)?;
    let mut seen = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", jailed.process.pid()))? {
        let target = fs::read_link(entry?.path())?.to_string_lossy().into_owned();
        let kind = target.split(':').next().unwrap_or_default().to_owned();
        seen.push(if target.starts_with('/') {
            target
        } else {
            kind
        });
    }
    seen.sort();
    let shared = jailed.directory.path().join("shared").display().to_string();
    let mut expected = vec!["/dev/null", "pipe", "pipe", "socket", "socket"];
    if component == "dev-fs" {
        // The shared directory and the piece of /proc, which are mounts of their own.
        expected.extend(["/", "/"]);
    } else {
        expected.push(&shared);
    }
    if component == "vmm" && host::open_kvm().is_ok() {
        expected.push("/dev/kvm");
    }
    expected.sort_unstable();
    ensure(seen == expected, format!("{seen:?}"))
}

fn namespaces(component: &str) -> Result<(), Failed> {
    let policy = policy::component(component).ok_or("no such policy")?;
    let is_shared = |name| policy.shared.iter().any(|line| line.value.name() == name);
    let jailed = jailed(component)?;
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let theirs = fs::read_link(format!("/proc/{}/ns/{name}", jailed.process.pid()))?;
        let ours = fs::read_link(format!("/proc/self/ns/{name}"))?;
        let message = format!("{name}: {theirs:?} beside {ours:?}");
        ensure((theirs == ours) == is_shared(name), message)?;
    }
    let pids = status(&jailed.process, "NSpid")?;
    ensure(pids.ends_with("\t1"), format!("its process ids are {pids}"))
}

fn dropped(component: &str) -> Result<(), Failed> {
    let jailed = jailed(component)?;
    let pid = jailed.process.pid();
    drop(jailed);
    ensure(!fs::exists(format!("/proc/{pid}"))?, "it lives on")
}

fn orphaned(component: &str) -> Result<(), Failed> {
    let component = component.to_owned();
    let thread =
        std::thread::spawn(move || jailed(&component).map_err(|error| format!("{error:?}")));
    let mut jailed = thread.join().map_err(|_| "the thread panicked")??;
    let exit = jailed.process.wait(Some(Duration::from_secs(10)))?;
    ensure(
        exit == Some(Exit::Signal(libc::SIGKILL)),
        format!("{exit:?}"),
    )
}

fn answers(component: &str) -> Result<(), Failed> {
    let outcome = jailed(component)?.perform(&Deed::Nothing)?;
    ensure(outcome == Outcome::Done, format!("{outcome:?}"))
}

fn two_users() -> Result<(), Failed> {
    let (first, second) = (jailed("vmm")?, jailed("vmm")?);
    let users = [
        status(&first.process, "Uid")?,
        status(&second.process, "Uid")?,
    ];
    if nix::unistd::Uid::effective().is_root() {
        ensure(users[0] != users[1], format!("{users:?}"))?;
        return ensure(
            !users.iter().any(|line| line.starts_with("0\t")),
            format!("{users:?}"),
        );
    }
    // An ordinary user has only itself to give.
    let own = nix::unistd::Uid::effective().to_string();
    ensure(
        users.iter().all(|line| line.starts_with(&own)),
        format!("{users:?}"),
    )
}

/// Starts another program than this one.
fn spawn(program: &fs::File, title: &str) -> jailer::Result<(Process, Channel)> {
    let policy = policy::component("dev-vsock").ok_or(Error::Wait(0, std::io::Error::other("")))?;
    let pair = Channel::pair().map_err(|error| Error::Wait(0, std::io::Error::other(error)));
    let (host, component) = pair?;
    let process = jailer::spawn(Launch {
        policy,
        program: program.as_fd(),
        title,
        stderr: std::io::stderr().as_fd(),
        channel: component,
    })?;
    Ok((process, host))
}

fn not_executable() -> Result<(), Failed> {
    let file = tempfile::tempfile()?;
    let error = spawn(&file, "x").map(drop).expect_err("it ran");
    let text = error.to_string();
    ensure(
        matches!(error, Error::Start { .. }) && text.contains("execute the program"),
        text,
    )
}

fn no_program() -> Result<(), Failed> {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let path = directory.path().join("x");
    fs::write(&path, "hello")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let error = spawn(&fs::File::open(path)?, "x")
        .map(drop)
        .expect_err("it ran");
    let text = error.to_string();
    ensure(text.contains("not a program for this machine"), text)
}

fn ends_at_once() -> Result<(), Failed> {
    // The title tells a busybox which of its programs to be.
    let (mut process, channel) = spawn(&fs::File::open("/bin/false")?, "false")?;
    let answer = handoff::await_ready(&channel, Duration::from_secs(10));
    ensure(
        matches!(answer, Err(handoff::Error::Died)),
        format!("{answer:?}"),
    )?;
    let exit = process.wait(Some(Duration::from_secs(10)))?;
    ensure(exit == Some(Exit::Code(1)), format!("{exit:?}"))
}

fn bad_title() -> Result<(), Failed> {
    let result = spawn(&fs::File::open("/bin/false")?, "a\0b");
    ensure(matches!(result, Err(Error::Prepare(..))), "it was taken")
}
