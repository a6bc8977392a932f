//! The host's half of the agent's protocol, over whatever connects to an agent.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicU64, Ordering},
    thread::{self, JoinHandle},
};

use wire::{
    agent::{Control, Event, Exec, Exit, Failure, Opening, Request, Size, Stream, VERSION},
    frame,
};

/// Connects to an agent in this process.
pub(crate) fn connect(agent: &agent::serve::Agent) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    agent.serve(theirs).unwrap();
    ours
}

pub(crate) fn open(agent: &agent::serve::Agent, request: Request) -> UnixStream {
    let mut stream = connect(agent);
    let opening = Opening {
        version: VERSION,
        request,
    };
    frame::write(&mut stream, &opening).unwrap();
    stream
}

/// A request without streams; its session is unique.
pub(crate) fn exec(argv: &[&str]) -> Exec {
    static SESSION: AtomicU64 = AtomicU64::new(1);
    Exec {
        session: SESSION.fetch_add(1, Ordering::Relaxed),
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: Vec::new(),
        cwd: None,
        user: None,
        terminal: None,
        streams: Vec::new(),
    }
}

pub(crate) fn shell(script: &str) -> Exec {
    exec(&["/bin/sh", "-c", script])
}

/// A command as the host sees it.
pub(crate) struct Command {
    pub(crate) control: UnixStream,
    pub(crate) stdin: Option<UnixStream>,
    pub(crate) stdout: Option<UnixStream>,
    pub(crate) stderr: Option<UnixStream>,
    pub(crate) terminal: Option<UnixStream>,
}

impl Command {
    /// Starts it with the streams that it asks for.
    pub(crate) fn start(agent: &agent::serve::Agent, exec: &Exec) -> Self {
        let attach = |stream| {
            let wanted = exec.streams.contains(&stream)
                || exec.terminal.is_some() && stream == Stream::Terminal;
            let session = exec.session;
            wanted.then(|| open(agent, Request::Attach { session, stream }))
        };
        Self {
            stdin: attach(Stream::Stdin),
            control: open(agent, Request::Exec(exec.clone())),
            stdout: attach(Stream::Stdout),
            stderr: attach(Stream::Stderr),
            terminal: attach(Stream::Terminal),
        }
    }

    pub(crate) fn event(&mut self) -> Option<Event> {
        frame::read(&mut self.control).unwrap()
    }

    /// Waits for the start.
    pub(crate) fn started(mut self) -> (Self, u32) {
        match self.event() {
            Some(Event::Started { pid }) => (self, pid),
            other => panic!("expected a start, got {other:?}"),
        }
    }

    pub(crate) fn exit(&mut self) -> Exit {
        match self.event() {
            Some(Event::Exited(exit)) => exit,
            other => panic!("expected an exit, got {other:?}"),
        }
    }

    pub(crate) fn signal(&mut self, signal: i32) {
        frame::write(&mut self.control, &Control::Signal(signal)).unwrap();
    }

    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        let size = Size { rows, columns };
        frame::write(&mut self.control, &Control::Resize(size)).unwrap();
    }
}

/// Reads a stream to its end on a thread.
pub(crate) fn collect(stream: Option<UnixStream>) -> JoinHandle<Vec<u8>> {
    let mut stream = stream.expect("the command has this stream");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Runs to the end with all three streams; `input` is all of the standard input.
pub(crate) fn run(
    agent: &agent::serve::Agent,
    mut exec: Exec,
    input: &[u8],
) -> (Exit, String, String) {
    exec.streams = vec![Stream::Stdin, Stream::Stdout, Stream::Stderr];
    let (mut command, _) = Command::start(agent, &exec).started();
    let stdout = collect(command.stdout.take());
    let stderr = collect(command.stderr.take());
    let mut stdin = command.stdin.take().unwrap();
    // A command that does not read its input may be gone before all of it is written.
    let _ = stdin.write_all(input);
    drop(stdin);
    let exit = command.exit();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        exit,
        text(stdout.join().unwrap()),
        text(stderr.join().unwrap()),
    )
}

/// Asks for a command that does not start.
pub(crate) fn refused(agent: &agent::serve::Agent, exec: &Exec) -> Failure {
    match Command::start(agent, exec).event() {
        Some(Event::Failed(failure)) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}
