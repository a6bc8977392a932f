//! The host's side of the agent protocol: commands and ports of a guest, over any way to connect
//! to it.
//!
//! Nothing here starts a thread or buffers: a command's streams and a port's connections are
//! sockets, and waiting for them is a blocking read.

#![forbid(unsafe_code)]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(clippy::arithmetic_side_effects, reason = "a test fails by panicking")
)]

mod exec;
mod listener;

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::Shutdown as Direction,
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};

pub use exec::Exec;
pub use listener::Listener;
pub use wire::agent::{Exit, FailureKind, Shutdown, Size};
use wire::{
    agent::{Control, Event, Failure, Opening, PORT, Request, Stream, VERSION},
    frame,
};

/// What can go wrong between the host and the agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection to be had.
    #[error("cannot connect to the guest's agent")]
    Connect(#[source] io::Error),
    /// A message could not be sent or understood.
    #[error("the conversation with the guest's agent failed")]
    Wire(#[from] wire::Error),
    /// The agent said no.
    #[error("{message}")]
    Refused {
        /// What kind of no.
        kind: FailureKind,
        /// The agent's words.
        message: String,
    },
    /// The connection ended before the answer: the guest, or its vsock device, is gone.
    #[error("the guest ended before its agent answered")]
    Vanished,
    /// What the guest sent cannot be kept.
    #[error("cannot write what the guest has changed")]
    Write(#[source] io::Error),
    /// The agent answered something else.
    #[error("the guest's agent gave an answer that does not belong here")]
    Unexpected,
}

impl Error {
    /// Whether this is the loss of the guest rather than its answer.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Wire(_) | Self::Vanished)
    }
}

type Connect = dyn Fn(u32) -> io::Result<UnixStream> + Send + Sync;

/// How long an agent has to answer what takes it no time, with what it waits for itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A guest's agent. Clones reach the same one.
#[derive(Clone)]
pub struct Client {
    connect: Arc<Connect>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// An agent that is reached by `connect`, which makes a stream to a vsock port of the guest.
    pub fn new(connect: impl Fn(u32) -> io::Result<UnixStream> + Send + Sync + 'static) -> Self {
        Self {
            connect: Arc::new(connect),
        }
    }

    /// Starts a command and waits until it runs.
    ///
    /// # Errors
    /// [`Error::Refused`] if the guest cannot run it; others if the guest is gone.
    pub fn exec(&self, exec: Exec) -> Result<Child, Error> {
        // Several programs may talk to one agent, so a counter would not do.
        let session = RandomState::new().build_hasher().finish();
        let (request, streams) = exec.into_request(session);
        let control = self.open(Request::Exec(request))?;
        let mut child = Child {
            control,
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
        };
        for stream in streams {
            let connection = self.open(Request::Attach { session, stream })?;
            child.attach(stream, connection)?;
        }
        match answer(&child.control)? {
            Event::Started { .. } => Ok(child),
            _ => Err(Error::Unexpected),
        }
    }

    /// Asks the guest to end. The guest syncs its file systems first; this does not wait for it.
    ///
    /// # Errors
    /// If the guest is gone, or does not answer within `limit`.
    pub fn shutdown(&self, how: Shutdown, limit: Duration) -> Result<(), Error> {
        self.ask(Request::Shutdown(how), limit)
    }

    /// Asks the agent for a sign of life.
    ///
    /// # Errors
    /// If there is none within `limit`.
    pub fn ping(&self, limit: Duration) -> Result<(), Error> {
        self.ask(Request::Ping, limit)
    }

    /// Connects to what listens on a TCP port of the guest's loopback addresses. Each direction of
    /// the stream ends by itself, with `shutdown`.
    ///
    /// # Errors
    /// [`Error::Refused`] of [`FailureKind::ConnectionRefused`] if nothing listens there; others if
    /// the guest is gone or does not answer.
    pub fn connect(&self, port: u16) -> Result<UnixStream, Error> {
        match self.request(Request::Connect { port }, Some(ANSWER_LIMIT))? {
            (stream, Event::Acknowledged) => Ok(stream),
            _ => Err(Error::Unexpected),
        }
    }

    /// Listens on a TCP port of the guest's loopback addresses; on one that is free if `port` is 0.
    ///
    /// # Errors
    /// [`Error::Refused`] of [`FailureKind::AddressInUse`] if the port is taken; others if the guest
    /// is gone or does not answer.
    pub fn listen(&self, port: u16) -> Result<Listener, Error> {
        Listener::bind(self, port)
    }

    /// Writes what the guest has changed of its root to `to`: a layer of an image, not compressed.
    ///
    /// # Errors
    /// [`Error::Refused`] if its root is not one whose changes are kept apart, [`Error::Write`], or
    /// if the guest is gone; `to` has a part of it then.
    pub fn changes(&self, mut to: impl io::Write) -> Result<(), Error> {
        let stream = self.open(Request::Changes)?;
        loop {
            match answer(&stream)? {
                Event::Piece(bytes) => to.write_all(&bytes).map_err(Error::Write)?,
                Event::Acknowledged => return Ok(()),
                _ => return Err(Error::Unexpected),
            }
        }
    }

    fn ask(&self, request: Request, limit: Duration) -> Result<(), Error> {
        match self.request(request, Some(limit))? {
            (_, Event::Acknowledged) => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    /// Sends a request and waits for its answer, which is no failure; what follows on the stream
    /// is waited for without a limit.
    fn request(
        &self,
        request: Request,
        limit: Option<Duration>,
    ) -> Result<(UnixStream, Event), Error> {
        let stream = self.open(request)?;
        stream.set_read_timeout(limit).map_err(Error::Connect)?;
        let event = answer(&stream)?;
        stream.set_read_timeout(None).map_err(Error::Connect)?;
        Ok((stream, event))
    }

    fn open(&self, request: Request) -> Result<UnixStream, Error> {
        let stream = (self.connect)(PORT).map_err(Error::Connect)?;
        let opening = Opening {
            version: VERSION,
            request,
        };
        frame::write(&stream, &opening)?;
        Ok(stream)
    }
}

/// A command that runs in the guest. Dropping it hangs up on the command: SIGHUP, then SIGKILL.
#[derive(Debug)]
pub struct Child {
    control: UnixStream,
    /// Its standard input, if attached. Dropping it (and all its clones) ends the input.
    pub stdin: Option<UnixStream>,
    /// Its standard output, if attached.
    pub stdout: Option<UnixStream>,
    /// Its standard error, if attached.
    pub stderr: Option<UnixStream>,
    /// Both directions of its terminal, if it has one.
    pub terminal: Option<UnixStream>,
}

impl Child {
    /// Waits until the command has ended. Its output has been sent by then, but what was not read
    /// from its streams is still in them.
    ///
    /// # Errors
    /// If the guest ends first.
    pub fn wait(&mut self) -> Result<Exit, Error> {
        match answer(&self.control)? {
            Event::Exited(exit) => Ok(exit),
            _ => Err(Error::Unexpected),
        }
    }

    /// Something that can send signals and sizes from elsewhere while this one waits.
    ///
    /// # Errors
    /// If there are no file descriptors left.
    pub fn remote(&self) -> Result<Remote, Error> {
        self.control.try_clone().map(Remote).map_err(Error::Connect)
    }

    fn attach(&mut self, stream: Stream, connection: UnixStream) -> Result<(), Error> {
        if matches!(stream, Stream::Stdout | Stream::Stderr) {
            // Nothing travels towards the guest on these.
            connection
                .shutdown(Direction::Write)
                .map_err(Error::Connect)?;
        }
        let slot = match stream {
            Stream::Stdin => &mut self.stdin,
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::Terminal => &mut self.terminal,
        };
        *slot = Some(connection);
        Ok(())
    }
}

/// Controls a command beside its [`Child`].
#[derive(Debug)]
pub struct Remote(UnixStream);

impl Remote {
    /// Sends a Linux signal to the command's process group.
    ///
    /// # Errors
    /// If the guest is gone.
    pub fn signal(&self, number: i32) -> Result<(), Error> {
        Ok(frame::write(&self.0, &Control::Signal(number))?)
    }

    /// Tells the command's terminal its new size.
    ///
    /// # Errors
    /// If the guest is gone.
    pub fn resize(&self, size: Size) -> Result<(), Error> {
        Ok(frame::write(&self.0, &Control::Resize(size))?)
    }
}

/// The agent's next words, unless they are a failure.
fn answer(stream: &UnixStream) -> Result<Event, Error> {
    match frame::read(stream)?.ok_or(Error::Vanished)? {
        Event::Failed(Failure { kind, message }) => Err(Error::Refused { kind, message }),
        event => Ok(event),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        thread,
    };

    use super::*;

    /// A client whose connections are served by `serve`, one thread each.
    fn client(serve: impl Fn(UnixStream, Opening) + Send + Sync + 'static) -> Client {
        let serve = Arc::new(serve);
        Client::new(move |port| {
            assert_eq!(port, PORT);
            let (ours, theirs) = UnixStream::pair()?;
            let serve = Arc::clone(&serve);
            thread::spawn(move || {
                if let Ok(Some(opening)) = frame::read(&theirs) {
                    serve(theirs, opening);
                }
            });
            Ok(ours)
        })
    }

    #[test]
    fn a_command_starts_with_the_streams_that_were_asked_for() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let client = client({
            let seen = Arc::clone(&seen);
            move |stream, opening| match opening.request {
                Request::Exec(exec) => {
                    assert_eq!(exec.streams, [Stream::Stdin, Stream::Stderr]);
                    frame::write(&stream, &Event::Started { pid: 7 }).unwrap();
                    frame::write(&stream, &Event::Exited(Exit::Code(3))).unwrap();
                }
                Request::Attach { stream, .. } => seen.lock().unwrap().push(stream),
                other => panic!("{other:?}"),
            }
        });
        let mut exec = Exec::new(b"true");
        exec.attach(true, false, true);
        let mut child = client.exec(exec).unwrap();
        assert!(child.stdin.is_some() && child.stdout.is_none() && child.stderr.is_some());
        assert_eq!(child.wait().unwrap(), Exit::Code(3));
    }

    #[test]
    fn a_refusal_carries_its_kind() {
        let client = client(|stream, _| {
            let failure = Failure {
                kind: FailureKind::NotFound,
                message: "no such program: x".to_owned(),
            };
            frame::write(&stream, &Event::Failed(failure)).unwrap();
        });
        let error = client.exec(Exec::new(b"x")).unwrap_err();
        assert!(matches!(
            error,
            Error::Refused {
                kind: FailureKind::NotFound,
                ..
            }
        ));
    }

    #[test]
    fn a_guest_that_is_gone_is_told_from_one_that_refuses() {
        let client = client(|_, _| {});
        assert!(matches!(client.exec(Exec::new(b"x")), Err(Error::Vanished)));
    }

    #[test]
    fn an_answer_of_another_kind_is_no_port() {
        let client = client(|stream, opening| {
            let event = match opening.request {
                Request::Listen { .. } => Event::Listening { port: 7 },
                _ => Event::Started { pid: 7 },
            };
            frame::write(&stream, &event).unwrap();
        });
        assert!(matches!(client.connect(7), Err(Error::Unexpected)));
        let listener = client.listen(0).unwrap();
        assert_eq!(listener.port(), 7);
        assert!(matches!(listener.accept(), Err(Error::Unexpected)));
    }

    #[test]
    fn an_agent_that_says_nothing_is_given_up() {
        let client = client(|stream, _| {
            thread::sleep(Duration::from_secs(5));
            drop(stream);
        });
        assert!(client.ping(Duration::from_millis(20)).is_err());
    }
}
