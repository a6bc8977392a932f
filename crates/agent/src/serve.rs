//! The host's connections: one thread each, whatever kind of stream socket carries them.

use std::{
    collections::HashMap,
    io::{self, BufWriter, Write},
    net::TcpStream,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, getsockname};
use wire::{
    agent::{Event, Exec, MAX_PIECE, Opening, Request, Shutdown, Stream, VERSION},
    frame,
};

use crate::{
    changes::{self, Baseline},
    error::{Error, Result, cannot, errno},
    ports::{self, Listeners},
    session,
    splice::splice,
};

/// How long a command waits for its streams, and a stream for its command.
const ATTACH_TIME: Duration = Duration::from_secs(30);

/// A thread's stack. Buffers are on the heap.
const STACK: usize = 128 << 10;

/// A stream socket of any family: `UnixStream` does nothing with it but read, write and shut
/// down, and the standard library has no type for vsock.
pub type Connection = UnixStream;

/// Serves the host. Clones serve the same commands.
#[derive(Debug, Clone, Default)]
pub struct Agent {
    waiting: Arc<Waiting>,
    listeners: Arc<Listeners>,
    /// The overlay's upper directory, if the root is one, and what is in it by our own doing.
    upper: Option<Arc<(OwnedFd, Baseline)>>,
}

/// The streams that wait for their commands.
#[derive(Debug, Default)]
struct Waiting {
    streams: Mutex<HashMap<(u64, Stream), (Connection, Instant)>>,
    arrived: Condvar,
}

impl Agent {
    /// An agent without commands.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, over a root whose changes from now on are in the directory `upper`.
    #[must_use]
    pub fn with_upper(upper: OwnedFd) -> Self {
        let baseline = Baseline::of(&path(&upper));
        Self::over(upper, baseline)
    }

    /// The same, where what is in it already was changed before.
    #[must_use]
    pub fn with_kept(upper: OwnedFd) -> Self {
        Self::over(upper, Baseline::default())
    }

    fn over(upper: OwnedFd, baseline: Baseline) -> Self {
        Self {
            upper: Some(Arc::new((upper, baseline))),
            ..Self::default()
        }
    }

    /// Serves one connection on a thread of its own, from its [`Opening`] to its end.
    ///
    /// # Errors
    /// If there are no resources for another thread.
    pub fn serve(&self, connection: Connection) -> io::Result<()> {
        let agent = self.clone();
        let thread = thread::Builder::new().stack_size(STACK);
        thread.spawn(move || agent.handle(connection)).map(drop)
    }

    fn handle(&self, mut connection: Connection) {
        // A host that says nothing, or nonsense, gets no answer.
        let Ok(Some(opening)) = frame::read::<Opening>(&connection) else {
            return;
        };
        if opening.version != VERSION {
            let (host, agent) = (opening.version, VERSION);
            return fail(&mut connection, &Error::Version { host, agent });
        }
        match opening.request {
            Request::Attach { session, stream } => self.park((session, stream), connection),
            Request::Ping => send(&mut connection, &Event::Acknowledged),
            Request::Shutdown(how) => shut_down(&mut connection, how),
            Request::Exec(exec) => {
                let run = self.streams(&exec);
                let run = run.and_then(|s| session::run(&exec, s, &mut connection));
                or_fail(&mut connection, run);
            }
            Request::Changes => {
                let end = self.changes(&mut connection);
                or_fail(&mut connection, end);
            }
            Request::Connect { port } => match ports::connect(port) {
                Ok(program) => join(connection, program, &Event::Acknowledged),
                Err(error) => fail(&mut connection, &error),
            },
            Request::Listen { listener, port } => {
                let end = self.listeners.listen(listener, port, &mut connection);
                or_fail(&mut connection, end);
            }
            Request::Accept { listener } => match self.listeners.accept(listener, &connection) {
                Ok(Some((program, from))) => join(connection, program, &Event::Accepted { from }),
                Ok(None) => {}
                Err(error) => fail(&mut connection, &error),
            },
        }
    }

    fn changes(&self, connection: &mut Connection) -> Result<()> {
        let upper = self.upper.as_ref().ok_or(Error::Invalid(
            "this guest's root is not an overlay: its changes are not kept apart",
        ))?;
        let (upper, baseline) = &**upper;
        let pieces = BufWriter::with_capacity(MAX_PIECE, Pieces(connection));
        changes::write(&path(upper), baseline, pieces)
            .map_err(|error| cannot("read what was changed")(errno(&error)))?;
        send(connection, &Event::Acknowledged);
        Ok(())
    }

    /// Keeps a stream for its command, and forgets those whose commands never came.
    fn park(&self, key: (u64, Stream), connection: Connection) {
        let mut streams = self.waiting.lock();
        let now = Instant::now();
        streams.retain(|_, (_, since)| now.duration_since(*since) < ATTACH_TIME);
        // A second stream of the same name closes the first.
        streams.insert(key, (connection, now));
        self.waiting.arrived.notify_all();
    }

    /// Waits until every stream that the command asked for is there, and takes them.
    fn streams(&self, exec: &Exec) -> Result<session::Attached> {
        let wanted = wanted(exec)?;
        let present = |streams: &mut HashMap<(u64, Stream), _>| {
            wanted
                .iter()
                .all(|stream| streams.contains_key(&(exec.session, *stream)))
        };
        let (mut streams, timeout) = self
            .waiting
            .arrived
            .wait_timeout_while(self.waiting.lock(), ATTACH_TIME, |s| !present(s))
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(Error::Invalid(
                "the host did not attach every stream in time",
            ));
        }
        let taken = wanted.iter().filter_map(|stream| {
            let (connection, _) = streams.remove(&(exec.session, *stream))?;
            Some((*stream, connection))
        });
        Ok(taken.collect())
    }
}

impl Waiting {
    /// No thread leaves the map half changed, so one that panicked does not matter.
    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, Stream), (Connection, Instant)>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A path of what is open.
fn path(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// A writer of [`Event::Piece`]s.
struct Pieces<'c>(&'c mut Connection);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..MAX_PIECE).unwrap_or(bytes);
        let event = Event::Piece(piece.to_vec());
        frame::write(&mut *self.0, &event).map_err(io::Error::other)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The streams of a command; a terminal is one by itself.
fn wanted(exec: &Exec) -> Result<Vec<Stream>> {
    match (exec.terminal, exec.streams.as_slice()) {
        (Some(_), []) => Ok(vec![Stream::Terminal]),
        (Some(_), _) => Err(Error::Invalid(
            "a command has a terminal or streams, not both",
        )),
        (None, streams) if streams.contains(&Stream::Terminal) => {
            Err(Error::Invalid("a terminal stream without a terminal"))
        }
        (None, streams) => Ok(streams.to_vec()),
    }
}

/// Ends the machine; only its init may, which is the parent of whoever serves the host in one.
fn shut_down(connection: &mut Connection, how: Shutdown) {
    let in_guest = getsockname_is_vsock(connection);
    if !in_guest {
        return fail(
            connection,
            &Error::Invalid("this agent is not a machine's init"),
        );
    }
    send(connection, &Event::Acknowledged);
    crate::shutdown::shut_down(how);
}

fn getsockname_is_vsock(connection: &Connection) -> bool {
    use nix::sys::socket::{SockaddrLike, SockaddrStorage};
    use std::os::fd::AsRawFd;
    getsockname::<SockaddrStorage>(connection.as_raw_fd())
        .is_ok_and(|address| address.family() == Some(AddressFamily::Vsock))
}

/// Sends an event; a host that is gone does not hear it.
pub(crate) fn send(connection: &mut Connection, event: &Event) {
    let _ = frame::write(connection, event);
}

/// Says that the connection is now the program's, and makes it so.
fn join(mut host: Connection, program: TcpStream, event: &Event) {
    send(&mut host, event);
    // From here on its end is all that the host can be told.
    let _ = splice(host, program);
}

fn or_fail(connection: &mut Connection, result: Result<()>) {
    if let Err(error) = result {
        fail(connection, &error);
    }
}

fn fail(connection: &mut Connection, error: &Error) {
    send(connection, &Event::Failed(error.failure()));
}
