//! The keeper's clients.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agent_client::Client;
use handoff::Channel;
use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    process::{Pid, Signal, kill_process},
};

use crate::{
    build::{KEEPER, identity},
    error::{Error, Result, file},
    place::{Place, workspace},
    pool::boxes,
    protocol::{Answer, Ask, Status},
    tools,
};

/// How long a box may take to come up or to go. The first start fetches a kernel.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often something is looked for that announces itself to nobody.
const INTERVAL: Duration = Duration::from_millis(5);

/// How many lines of the log explain a failure.
const TAIL: usize = 25;

/// A box that is up, and stays up for as long as this lives.
#[derive(Debug)]
pub struct Testbed {
    channel: Channel,
    status: Status,
    /// How long this client waited for a box to boot; none if it was up.
    booted: Option<Duration>,
}

impl Testbed {
    /// The first box of this workspace, booted with the binaries in `bin_dir` unless it is up.
    ///
    /// # Errors
    /// [`Error::Missing`] if programs are missing, [`Error::NotUp`] if the box does not come up.
    pub fn open(bin_dir: &Path) -> Result<Self> {
        Self::open_for(&workspace(), 0, bin_dir)
    }

    /// A box in which `workspace` is written through; there is one for each number.
    ///
    /// # Errors
    /// As [`Testbed::open`].
    pub fn open_for(workspace: &Path, number: usize, bin_dir: &Path) -> Result<Self> {
        let place = Place::of(workspace, number);
        let build = identity(bin_dir)?;
        let mut starter = Starter {
            place: &place,
            workspace,
            number,
            bin_dir,
            child: None,
        };
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            match connect_to(&place.socket()) {
                Some(channel) => match greet(&channel, build)? {
                    Some(Answer::Up(status)) => {
                        return Ok(Self {
                            channel,
                            status,
                            booted: starter.child.map(|_| begin.elapsed()),
                        });
                    }
                    Some(Answer::Stale) => await_release(&place)?,
                    None => starter.check()?,
                },
                None if held(&place)? => starter.check()?,
                None => starter.start()?,
            }
            thread::sleep(INTERVAL);
        }
        Err(Error::TimedOut("the start of the testbed"))
    }

    /// What there is to know about the box.
    #[must_use]
    pub const fn status(&self) -> &Status {
        &self.status
    }

    /// How long the boot took, if this client had to wait for one.
    #[must_use]
    pub const fn booted(&self) -> Option<Duration> {
        self.booted
    }

    /// The box's agent. It is reached only for as long as the testbed is open.
    ///
    /// # Errors
    /// If there are no file descriptors left.
    pub fn agent(&self) -> Result<Client> {
        let channel = self.channel.try_clone()?;
        Ok(Client::new(move |port| {
            let (ours, theirs) = UnixStream::pair()?;
            channel
                .send(&Ask::Connect { port }, &[theirs.as_fd()])
                .map_err(io::Error::other)?;
            Ok(ours)
        }))
    }
}

/// Ends this workspace's boxes; false if there is none.
///
/// # Errors
/// If a keeper does not end in time.
pub fn down() -> Result<bool> {
    (0..boxes()).try_fold(false, |any, number| {
        Ok(down_for(&workspace(), number)? || any)
    })
}

/// Ends one box of `workspace`; false if there is none.
///
/// # Errors
/// As [`down`].
pub fn down_for(workspace: &Path, number: usize) -> Result<bool> {
    let place = Place::of(workspace, number);
    if !held(&place)? {
        return Ok(false);
    }
    let pid = fs::read_to_string(place.lock())
        .ok()
        .and_then(|text| Pid::from_raw(text.parse().ok()?));
    if let Some(pid) = pid {
        // The lock is held, so that process lives; if not any more, all the better.
        let _ = kill_process(pid, Signal::TERM);
    }
    await_release(&place)?;
    Ok(true)
}

/// The directory of the keeper of a box of `workspace`: its socket, its lock, and `log`, where it
/// writes what happens and the box its console. It is gone with the box, but for the log if the box
/// ended badly.
#[must_use]
pub fn directory_for(workspace: &Path, number: usize) -> PathBuf {
    Place::of(workspace, number).directory().to_owned()
}

/// Connects, if somebody listens.
fn connect_to(path: &Path) -> Option<Channel> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).ok()?;
    connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    Some(Channel::from_fd(socket))
}

/// `None` if the keeper left without an answer.
fn greet(channel: &Channel, build: [u8; 32]) -> Result<Option<Answer>> {
    if channel.send(&Ask::Hello { build }, &[]).is_err() {
        return Ok(None);
    }
    channel.set_timeout(Some(PATIENCE))?;
    let answer = channel.receive::<Answer>();
    channel.set_timeout(None)?;
    match answer {
        Ok(answer) => Ok(answer.map(|(answer, _)| answer)),
        Err(handoff::Error::Socket(..)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a keeper lives.
fn held(place: &Place) -> Result<bool> {
    let path = place.lock();
    let lock = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(file("open", &path))?,
    };
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Ok(true),
        other => {
            other.map_err(|error| file("lock", &path)(error.into()))?;
            Ok(false)
        }
    }
}

/// Waits until no keeper lives.
fn await_release(place: &Place) -> Result<()> {
    let begin = Instant::now();
    while held(place)? {
        if begin.elapsed() > PATIENCE {
            return Err(Error::TimedOut("the end of the testbed"));
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}

/// Starts a keeper, once.
struct Starter<'a> {
    place: &'a Place,
    workspace: &'a Path,
    number: usize,
    bin_dir: &'a Path,
    child: Option<Child>,
}

impl Starter<'_> {
    fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            return self.check();
        }
        let missing = tools::missing();
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|tool| tool.program).collect();
            let missing = names.join(", ");
            return Err(Error::Missing { missing });
        }
        self.place.make()?;
        let path = self.place.log();
        // There only if the box before this one ended badly.
        let _ = fs::rename(&path, self.place.earlier_log());
        let log = File::create(&path).map_err(file("write", &path))?;
        let errors = log.try_clone().map_err(file("write", &path))?;
        let program = self.bin_dir.join(KEEPER);
        let child = Command::new(&program)
            .arg(self.workspace)
            .arg(self.number.to_string())
            .arg(self.bin_dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|source| Error::Spawn {
                program: program.display().to_string(),
                source,
            })?;
        self.child = Some(child);
        Ok(())
    }

    /// An error if the keeper that was started has failed.
    fn check(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        match child.try_wait() {
            Ok(Some(status)) if !status.success() => {
                let log = self.place.log();
                let text = fs::read(&log).unwrap_or_default();
                let tail = tail(&String::from_utf8_lossy(&text));
                Err(Error::NotUp { log, tail })
            }
            // It found another keeper, which may have ended since: start anew.
            Ok(Some(_)) => {
                self.child = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The last lines.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL);
    let last = lines.get(from..).unwrap_or_default();
    last.iter().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_a_lock_that_does_not_exist() {
        let place = Place::of(Path::new("/no/such/workspace"), 0);
        assert!(!held(&place).unwrap());
        assert!(connect_to(&place.socket()).is_none());
    }

    #[test]
    fn a_tail_has_the_last_lines() {
        let text: String = (0..100).map(|n| format!("{n}\n")).collect();
        let tail = tail(&text);
        assert_eq!(tail.lines().count(), TAIL);
        assert!(tail.ends_with("  99\n"));
        assert_eq!(super::tail(""), "");
    }
}
