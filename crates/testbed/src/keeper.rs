//! The process that owns the box.

use std::{
    fs::{self, File, TryLockError},
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use agent_client::Client;
use handoff::Channel;
use kernel::Cache;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
        socket_with,
    },
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    build::identity,
    design,
    error::{Error, Result, file, system},
    machine::{Machine, say},
    place::Place,
    protocol::{Answer, Ask},
};

/// How long a box without clients stays up.
const IDLE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// How long a client may take to send what it began.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the box is asked for a sign of life.
const PULSE: Duration = Duration::from_secs(5);

/// How long it may take to give one: a busy host makes a busy box very slow.
const PULSE_PATIENCE: Duration = Duration::from_secs(60);

/// The keeper's life: boots `workspace`'s box of this number with the binaries in `bin_dir`, and serves
/// clients until there are none. If there is another keeper already, does nothing.
///
/// # Errors
/// If the box does not come up, or one of its parts dies.
pub fn keep(workspace: &Path, number: usize, bin_dir: &Path) -> Result<()> {
    // A terminal's Ctrl-C is not meant for the box; an error means that it is its own already.
    let _ = rustix::process::setsid();
    let place = Place::of(workspace, number);
    place.make()?;
    let Some(_lock) = lock(&place)? else {
        return Ok(());
    };
    let result = keep_locked(&place, workspace, bin_dir);
    if let Err(error) = &result {
        say(&wire::chain(error));
    }
    // What went wrong can be read there.
    place.remove(result.is_err());
    result
}

fn keep_locked(place: &Place, workspace: &Path, bin_dir: &Path) -> Result<()> {
    // Before the boot, so that clients have something to wait for.
    let listener = listen_at(&place.socket())?;
    let signals = signals()?;
    let build = identity(bin_dir)?;
    let cache = Cache::of_user()?.root().to_owned();
    fs::create_dir_all(&cache).map_err(file("make the directory", &cache))?;
    let shares = [workspace.to_owned(), cache].into_iter();
    let shares: Vec<PathBuf> = shares.filter(|path| path.is_absolute()).collect();
    let machine = design::boot(place, bin_dir, &shares)?;
    say(&format!("up in {} ms", machine.status.total()));
    Keeper {
        listener,
        signals,
        pulse: pulse(machine.agent()?)?,
        build,
        machine,
        clients: Vec::new(),
    }
    .serve()
}

/// Takes the lock for as long as the result lives; `None` if another keeper has it.
fn lock(place: &Place) -> Result<Option<File>> {
    let path = place.lock();
    loop {
        let mut lock = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(file("open", &path))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            other => other.map_err(|error| file("lock", &path)(error.into()))?,
        }
        // The keeper before removes the file last: then this lock is on a file without a name.
        let same = fs::metadata(&path).is_ok_and(|now| {
            lock.metadata()
                .is_ok_and(|ours| ours.ino() == now.ino() && ours.dev() == now.dev())
        });
        if same {
            let written = lock
                .set_len(0)
                .and_then(|()| write!(lock, "{}", std::process::id()));
            written.map_err(file("write", &path))?;
            return Ok(Some(lock));
        }
    }
}

fn listen_at(path: &Path) -> Result<OwnedFd> {
    // Left by a keeper that was killed.
    let _ = fs::remove_file(path);
    let make = || -> rustix::io::Result<OwnedFd> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, 64)?;
        Ok(socket)
    };
    make().map_err(|errno| file("listen at", path)(errno.into()))
}

/// Readable when the keeper is told to end.
fn signals() -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().map_err(system("make a socket pair"))?;
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let end = theirs.try_clone().map_err(system("duplicate a socket"))?;
        signal_hook::low_level::pipe::register(signal, end).map_err(system("handle a signal"))?;
    }
    Ok(ours)
}

/// Readable when the box gives no sign of life any more. A kernel whose interrupts are off on all its
/// CPUs does not notice that itself.
fn pulse(agent: Client) -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().map_err(system("make a socket pair"))?;
    thread::spawn(move || {
        while agent.ping(PULSE_PATIENCE).is_ok() {
            thread::sleep(PULSE);
        }
        drop(theirs);
    });
    Ok(ours)
}

struct Keeper {
    listener: OwnedFd,
    signals: UnixStream,
    pulse: UnixStream,
    build: [u8; 32],
    machine: Machine,
    clients: Vec<Channel>,
}

/// Which of the watched descriptors are ready.
struct Ready {
    listener: bool,
    signals: bool,
    pulse: bool,
    control: bool,
    clients: Vec<bool>,
    none: bool,
}

impl Keeper {
    fn serve(mut self) -> Result<()> {
        loop {
            let ready = self.wait()?;
            if ready.control {
                // The device only speaks of connections, of which there are no more.
                self.machine.check()?;
                return Err(Error::Ended {
                    program: "the vsock device".to_owned(),
                    status: "its channel is closed".to_owned(),
                });
            }
            if ready.pulse {
                return Err(Error::TimedOut("a sign of life of the box's agent"));
            }
            if ready.none && self.clients.is_empty() {
                return Ok(());
            }
            let mut served = ready.clients.into_iter();
            let clients = std::mem::take(&mut self.clients);
            self.clients = clients
                .into_iter()
                .filter(|client| !served.next().unwrap_or(false) || self.serve_client(client))
                .collect();
            // Only now is it known who left before the signal came.
            if ready.signals {
                return self.told();
            }
            if ready.listener && !self.accept()? {
                return Ok(());
            }
        }
    }

    /// Ends because somebody said so; those whose box it was find the reason in the log.
    fn told(&self) -> Result<()> {
        match self.clients.len() {
            0 => Ok(()),
            clients => Err(Error::Told { clients }),
        }
    }

    fn wait(&self) -> Result<Ready> {
        let fixed = [
            self.listener.as_fd(),
            self.signals.as_fd(),
            self.pulse.as_fd(),
            self.machine.vsock().control().as_fd(),
        ];
        let clients = self.clients.iter().map(AsFd::as_fd);
        let mut watched: Vec<PollFd<'_>> = fixed
            .into_iter()
            .chain(clients)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let limit = self.clients.is_empty().then_some(&IDLE);
        let number = match poll(&mut watched, limit) {
            Err(rustix::io::Errno::INTR) => 1,
            other => other.map_err(system("wait for clients"))?,
        };
        let mut ready = watched.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || ready.next().unwrap_or(false);
        Ok(Ready {
            listener: next(),
            signals: next(),
            pulse: next(),
            control: next(),
            clients: ready.collect(),
            none: number == 0,
        })
    }

    /// Serves one request; false if the client is gone or speaks nonsense.
    fn serve_client(&self, client: &Channel) -> bool {
        match client.receive::<Ask>() {
            Ok(Some((Ask::Connect { port }, fds))) => fds.iter().all(|stream| {
                self.machine
                    .vsock()
                    .door()
                    .connect(port, stream.as_fd())
                    .is_ok()
            }),
            _ => false,
        }
    }

    /// Greets a new client; false if the box is to make way for a newer one.
    fn accept(&mut self) -> Result<bool> {
        let socket =
            accept_with(&self.listener, SocketFlags::CLOEXEC).map_err(system("accept a client"))?;
        let client = Channel::from_fd(socket);
        client.set_timeout(Some(PATIENCE))?;
        let Ok(Some((Ask::Hello { build }, _))) = client.receive::<Ask>() else {
            return Ok(true);
        };
        if build != self.build && self.clients.is_empty() {
            // It may have gone meanwhile; the next one will say it again.
            let _ = client.send(&Answer::Stale, &[]);
            return Ok(false);
        }
        if client
            .send(&Answer::Up(self.machine.status.clone()), &[])
            .is_ok()
        {
            self.clients.push(client);
        }
        Ok(true)
    }
}
