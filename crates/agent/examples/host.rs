//! The host's end by hand, over the sockets of `dev-vsock`'s example `qemu`:
//!
//! ```text
//! host SOCKET ready                 # waits at SOCKET_1025, prints what the agent says
//! host SOCKET exec COMMAND...       # its input and output are the command's
//! host SOCKET shutdown
//! ```

#![expect(clippy::print_stdout, reason = "an example for people")]

use std::{
    env,
    error::Error,
    io::{Read, Write, copy, stdin, stdout},
    net::Shutdown as Direction,
    os::unix::net::{UnixListener, UnixStream},
    thread,
};

use wire::{
    agent::{
        Event, Exec, Exit, Opening, PORT, READY_PORT, Ready, Request, Shutdown, Stream, VERSION,
    },
    frame,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let socket = arguments.next().ok_or("give a socket")?;
    match arguments.next().as_deref() {
        Some("ready") => {
            let listener = UnixListener::bind(format!("{socket}_{READY_PORT}"))?;
            let (stream, _) = listener.accept()?;
            let ready: Option<Ready> = frame::read(stream)?;
            println!("{ready:?}");
        }
        Some("exec") => println!("{:?}", exec(&socket, arguments.collect())?),
        Some("shutdown") => {
            let stream = open(&socket, Request::Shutdown(Shutdown::PowerOff))?;
            println!("{:?}", frame::read::<Event>(stream)?);
        }
        _ => return Err("say ready, exec or shutdown".into()),
    }
    Ok(())
}

fn open(socket: &str, request: Request) -> Result<UnixStream, Box<dyn Error>> {
    let mut stream = UnixStream::connect(socket)?;
    writeln!(stream, "{PORT}")?;
    let version = VERSION;
    frame::write(&mut stream, &Opening { version, request })?;
    Ok(stream)
}

fn exec(socket: &str, argv: Vec<String>) -> Result<Exit, Box<dyn Error>> {
    let session = u64::from(std::process::id());
    let exec = Exec {
        session,
        argv: argv.into_iter().map(String::into_bytes).collect(),
        env: Vec::new(),
        cwd: None,
        user: None,
        terminal: None,
        streams: vec![Stream::Stdin, Stream::Stdout, Stream::Stderr],
    };
    let attach = |stream| open(socket, Request::Attach { session, stream });
    let control = open(socket, Request::Exec(exec))?;
    let mut input = attach(Stream::Stdin)?;
    let outputs = [Stream::Stdout, Stream::Stderr].map(attach);
    thread::spawn(move || {
        let _ = copy(&mut stdin(), &mut input);
        let _ = input.shutdown(Direction::Write);
        // The half that is left ends with the command.
        let _ = input.read(&mut [0]);
    });
    let printers: Vec<_> = outputs
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .map(|mut output| thread::spawn(move || copy(&mut output, &mut stdout())))
        .collect();
    let exit = loop {
        match frame::read::<Event>(&control)? {
            Some(Event::Exited(exit)) => break exit,
            Some(Event::Started { .. }) => {}
            other => return Err(format!("{other:?}").into()),
        }
    };
    for printer in printers {
        printer.join().map_err(|_| "a printer panicked")??;
    }
    Ok(exit)
}
