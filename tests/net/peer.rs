//! This program as one end of a connection, in a process that can be stopped.
//!
//! `peer listen|connect ADDRESS send|take BYTES`. It prints `half` half-way.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, ExitCode, Stdio},
};

use crate::namespace::PATIENCE;

/// The period of what is sent, a prime: no loss or repetition of whole buffers leaves it as it is.
const PERIOD: usize = 1_000_003;

/// A command that is such an end.
pub(crate) fn command(place: &str, address: &str, what: &str, bytes: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["peer", place, address, what, &bytes.to_string()]);
    command.stdout(Stdio::piped());
    command
}

/// Acts as one.
pub(crate) fn act(words: &[String]) -> ExitCode {
    let [place, address, what, bytes] = words else {
        panic!("peer listen|connect ADDRESS send|take BYTES, not {words:?}");
    };
    let address: SocketAddr = address.parse().unwrap();
    let bytes = bytes.parse().unwrap();
    let stream = match &**place {
        "listen" => TcpListener::bind(address).unwrap().accept().unwrap().0,
        _ => TcpStream::connect(address).unwrap(),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    match &**what {
        "send" => send(&stream, bytes, say_half),
        _ => take(&stream, bytes, say_half),
    }
    ExitCode::SUCCESS
}

/// Sends so many bytes, an end, and waits for the other end's.
pub(crate) fn send(mut stream: &TcpStream, bytes: u64, half_way: fn()) {
    let pattern = pattern();
    let mut left = bytes;
    while left > 0 {
        let length = pattern.len().min(usize::try_from(left).unwrap());
        stream.write_all(pattern.get(..length).unwrap()).unwrap();
        left -= length as u64;
        if passed_half(bytes, left, length) {
            half_way();
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "nothing comes back");
}

/// Takes so many bytes and an end.
pub(crate) fn take(mut stream: &TcpStream, bytes: u64, half_way: fn()) {
    let (pattern, mut buffer) = (pattern(), vec![0; PERIOD]);
    let mut left = bytes;
    while left > 0 {
        let length = buffer.len().min(usize::try_from(left).unwrap());
        let piece = buffer.get_mut(..length).unwrap();
        stream.read_exact(piece).unwrap();
        assert!(
            piece == pattern.get(..length).unwrap(),
            "{left} from the end"
        );
        left -= length as u64;
        if passed_half(bytes, left, length) {
            half_way();
        }
    }
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "there is more");
}

/// Whether the last `length` bytes were those in the middle.
const fn passed_half(bytes: u64, left: u64, length: usize) -> bool {
    let half = bytes / 2;
    left <= half && half < left + length as u64
}

fn say_half() {
    // Nobody may be listening.
    let _ = writeln!(io::stdout(), "half");
}

/// Bytes without a period of their own (Knuth's multiplicative hash).
fn pattern() -> Vec<u8> {
    let byte = |at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0];
    (0..1_000_003).map(byte).collect()
}
