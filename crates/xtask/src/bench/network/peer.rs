//! A byte there and back, again and again.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends back what comes to this port, for as long as this process lives.
pub(super) fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    thread::Builder::new().name("echo".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its connection, and only that.
            let _ = echo(stream);
        }
    })?;
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// Prints how many microseconds a byte takes to `server` and back, on average.
pub(crate) fn print_round_trip(server: SocketAddr, seconds: u64) -> Result {
    let time =
        round_trip(server, Duration::from_secs(seconds)).map_err(|error| Error::Measure {
            what: format!("the way to {server} and back"),
            why: error.to_string(),
        })?;
    println!("{time}");
    Ok(0)
}

fn round_trip(server: SocketAddr, time: Duration) -> io::Result<f64> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (begin, mut count) = (Instant::now(), 0_u32);
    while begin.elapsed() < time {
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        count = count.saturating_add(1);
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}
