//! Ports, without a machine: an agent in this process, programs that are threads of it.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use agent::serve::Agent;
use agent_client::{Client, Error, FailureKind};
use wire::{
    agent::{Event, Opening, Request, VERSION},
    frame,
};

const LOCALHOST: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A new agent, and its host.
fn client() -> Client {
    let agent = Agent::new();
    Client::new(move |_| connect(&agent))
}

fn connect(agent: &Agent) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    agent.serve(theirs)?;
    Ok(ours)
}

/// A request whose every byte the test decides on.
fn open(agent: &Agent, request: Request) -> UnixStream {
    let stream = connect(agent).unwrap();
    let version = VERSION;
    frame::write(&stream, &Opening { version, request }).unwrap();
    stream
}

/// A server that serves one connection with `serve`, and its port.
fn server<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind(LOCALHOST).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || serve(listener.accept().unwrap().0));
    (port, thread)
}

fn read_all(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes that differ from place to place.
fn pattern(length: u32) -> Vec<u8> {
    let byte = |at: u32| at.wrapping_mul(2_654_435_761).to_le_bytes()[2];
    (0..length).map(byte).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, expected: FailureKind, word: &str) {
    match result {
        Err(Error::Refused { kind, message }) => {
            assert_eq!(kind, expected);
            assert!(message.contains(word), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn much_passes_both_ways_at_once_unchanged() {
    let (port, server) = server(|mut stream| {
        let mut buffer = vec![0; 10_000];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).unwrap();
        }
    });
    let mut stream = client().connect(port).unwrap();
    let sent = pattern(32 << 20);
    let writer = thread::spawn({
        let (mut stream, sent) = (stream.try_clone().unwrap(), sent.clone());
        move || {
            stream.write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
    });
    let received = read_all(&mut stream);
    writer.join().unwrap();
    server.join().unwrap();
    assert!(received == sent, "{} bytes came back", received.len());
}

#[test]
fn a_host_that_has_said_all_still_hears() {
    let (port, _) = server(|mut stream| {
        let heard = read_all(&mut stream);
        thread::sleep(Duration::from_millis(50));
        stream.write_all(&heard).unwrap();
    });
    let mut stream = client().connect(port).unwrap();
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(stream), b"question");
}

#[test]
fn a_program_that_has_said_all_still_hears() {
    let (port, server) = server(|mut stream| {
        stream.write_all(b"greeting").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_all(stream)
    });
    let mut stream = client().connect(port).unwrap();
    assert_eq!(read_all(&mut stream), b"greeting");
    thread::sleep(Duration::from_millis(50));
    stream.write_all(b"answer").unwrap();
    drop(stream);
    assert_eq!(server.join().unwrap(), b"answer");
}

#[test]
fn a_host_that_goes_away_breaks_the_program_s_stream() {
    let (port, server) = server(|mut stream| while stream.write_all(&[0; 4096]).is_ok() {});
    let mut stream = client().connect(port).unwrap();
    stream.read_exact(&mut [0; 4096]).unwrap();
    drop(stream);
    server.join().unwrap();
}

#[test]
fn a_program_that_resets_ends_the_stream() {
    // Closed with bytes unread, which resets.
    let (port, server) = server(|stream| {
        stream.peek(&mut [0]).unwrap();
    });
    let mut stream = client().connect(port).unwrap();
    stream.write_all(b"unread").unwrap();
    server.join().unwrap();
    assert_eq!(read_all(&mut stream), b"");
    let error = loop {
        match stream.write_all(b"more") {
            Ok(()) => thread::sleep(Duration::from_millis(1)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_slow_program_holds_the_host_back() {
    let (go, wait) = mpsc::channel();
    let (port, server) = server(move |stream| {
        wait.recv().unwrap();
        read_all(stream).len()
    });
    let mut stream = client().connect(port).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut pauses = 0;
    while pauses < 20 {
        match stream.write(&[0; 65536]) {
            Ok(length) => sent += length,
            Err(_) => {
                pauses += 1;
                thread::sleep(Duration::from_millis(10));
            }
        }
        assert!(sent < 64 << 20, "bytes went into nowhere");
    }
    go.send(()).unwrap();
    drop(stream);
    assert_eq!(server.join().unwrap(), sent);
}

#[test]
fn a_port_on_which_nobody_listens_refuses() {
    let client = client();
    for port in [0, 1] {
        let word = format!("port {port} ");
        refused(client.connect(port), FailureKind::ConnectionRefused, &word);
    }
}

#[test]
fn a_program_that_listens_for_ipv6_alone_is_reached() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut stream = client().connect(port).unwrap();
    stream.write_all(b"six").unwrap();
    drop(stream);
    assert_eq!(read_all(listener.accept().unwrap().0), b"six");
}

#[test]
fn programs_reach_a_listener_over_both_addresses() {
    let listener = client().listen(0).unwrap();
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    for address in loopback {
        let mut program = TcpStream::connect((address, listener.port())).unwrap();
        let (mut host, from) = listener.accept().unwrap();
        assert_eq!(from, program.local_addr().unwrap());
        program.write_all(b"ask").unwrap();
        program.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut host), b"ask");
        host.write_all(b"tell").unwrap();
        drop(host);
        assert_eq!(read_all(program), b"tell");
    }
}

#[test]
fn a_port_in_use_is_said_to_be() {
    let client = client();
    let taken = client.listen(0).unwrap();
    let again = client.listen(taken.port());
    let word = format!("port {} ", taken.port());
    refused(again, FailureKind::AddressInUse, &word);
}

#[test]
fn a_listener_ends_when_it_is_dropped_and_its_connections_go_on() {
    let client = client();
    let listener = client.listen(0).unwrap();
    let port = listener.port();
    let mut program = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (mut host, _) = listener.accept().unwrap();
    let mut waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    drop(listener);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
        thread::sleep(Duration::from_millis(1));
    }
    let end = waiting.read(&mut [0]);
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    program.write_all(b"still").unwrap();
    drop(program);
    let mut heard = String::new();
    host.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "still");
    // The port is free again.
    drop(client.listen(port).unwrap());
}

#[test]
fn a_flood_of_programs_waits_without_costing_the_agent_anything() {
    let client = client();
    let listener = client.listen(0).unwrap();
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let port = listener.port();
    let programs: Vec<_> = (0..100)
        .map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap())
        .collect();
    // Other tests run beside this one, but not that many threads.
    assert!(threads() < before + 50, "{} from {before}", threads());
    let mut hosts: Vec<_> = programs
        .iter()
        .map(|_| listener.accept().unwrap())
        .collect();
    for (mut program, number) in programs.iter().zip(0u8..) {
        program.write_all(&[number]).unwrap();
    }
    for (host, from) in &mut hosts {
        let mut number = [0];
        host.read_exact(&mut number).unwrap();
        let program = &programs[usize::from(number[0])];
        assert_eq!(*from, program.local_addr().unwrap());
    }
}

#[test]
fn a_host_that_stops_waiting_takes_no_connection_from_others() {
    let agent = Agent::new();
    let listener = 7;
    let control = open(&agent, Request::Listen { listener, port: 0 });
    let Ok(Some(Event::Listening { port })) = frame::read(&control) else {
        panic!("it does not listen");
    };
    for _ in 0..20 {
        drop(open(&agent, Request::Accept { listener }));
    }
    thread::sleep(Duration::from_millis(100));
    let _program = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let stream = open(&agent, Request::Accept { listener });
    assert!(matches!(
        frame::read(&stream),
        Ok(Some(Event::Accepted { .. }))
    ));
}

#[test]
fn listeners_that_make_no_sense_are_refused_and_nonsense_ends_one() {
    let agent = Agent::new();
    let ask = |request| open(&agent, request);
    let failed = |stream: &UnixStream| {
        let event = frame::read(stream).unwrap();
        assert!(matches!(event, Some(Event::Failed(_))), "{event:?}");
    };
    failed(&ask(Request::Accept { listener: 1 }));
    let mut control = ask(Request::Listen {
        listener: 1,
        port: 0,
    });
    assert!(frame::read::<Event>(&control).unwrap().is_some());
    failed(&ask(Request::Listen {
        listener: 1,
        port: 0,
    }));
    let waiting = ask(Request::Accept { listener: 1 });
    thread::sleep(Duration::from_millis(100));
    control.write_all(b"nonsense").unwrap();
    failed(&waiting);
    failed(&ask(Request::Accept { listener: 1 }));
}

#[test]
fn a_guest_that_is_gone_ends_the_wait() {
    let agent = Agent::new();
    let (ends, gone) = mpsc::channel::<UnixStream>();
    let client = Client::new(move |_| {
        let stream = connect(&agent)?;
        let _ = ends.send(stream.try_clone()?);
        Ok(stream)
    });
    let listener = client.listen(0).unwrap();
    let _control = gone.recv().unwrap();
    let waiting = thread::spawn(move || listener.accept().map(drop));
    let stream = gone.recv().unwrap();
    thread::sleep(Duration::from_millis(50));
    stream.shutdown(Shutdown::Both).unwrap();
    assert!(waiting.join().unwrap().unwrap_err().is_loss());
}
