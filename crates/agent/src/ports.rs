//! TCP ports of the guest, for the host to connect to and to listen on.
//!
//! The host dials in either case. A listener holds nothing by itself: what programs connected and
//! the host has not taken waits in the kernel's queue, which refuses more when it is full.

use std::{
    collections::{HashMap, hash_map::Entry},
    io::{self, ErrorKind, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{Shutdown, shutdown},
};
use wire::agent::Event;

use crate::{
    error::{Error, Result, cannot, errno},
    serve::{Connection, send},
};

/// How long a program whose queue is full has to make room.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How often a port is looked for that is free on both addresses.
const ATTEMPTS: usize = 16;

const IPV4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const IPV6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Connects to a program in the guest.
pub(crate) fn connect(port: u16) -> Result<TcpStream> {
    let dial = |address| {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_TIME)?;
        // A port from which connections start may meet itself when nobody listens on it.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        Ok(stream)
    };
    // What IPv4 says is the better reason: there may be no IPv6.
    let result = dial(IPV4).or_else(|error| dial(IPV6).map_err(|_| error));
    result.map_err(|error| cannot(format!("connect to port {port} of the guest"))(number(&error)))
}

/// The error's number, also if the standard library made it up.
fn number(error: &io::Error) -> Errno {
    match error.kind() {
        ErrorKind::ConnectionRefused => Errno::ECONNREFUSED,
        ErrorKind::TimedOut => Errno::ETIMEDOUT,
        _ => errno(error),
    }
}

/// Who listens for the host.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<HashMap<u64, Arc<Listener>>>);

impl Listeners {
    /// Listens until the host closes `control`, or says anything there.
    pub(crate) fn listen(&self, id: u64, port: u16, control: &mut Connection) -> Result<()> {
        let listener = Arc::new(Listener::bind(port)?);
        match self.lock().entry(id) {
            Entry::Occupied(_) => return Err(Error::Invalid("there is such a listener already")),
            Entry::Vacant(place) => drop(place.insert(Arc::clone(&listener))),
        }
        let port = listener.port;
        send(control, &Event::Listening { port });
        // An end or an error, both are the end.
        let _ = control.read_exact(&mut [0]);
        self.lock().remove(&id);
        listener.close();
        Ok(())
    }

    /// Waits for a program to connect; none if the host went away first.
    pub(crate) fn accept(
        &self,
        id: u64,
        host: &Connection,
    ) -> Result<Option<(TcpStream, SocketAddr)>> {
        let listener = self.lock().get(&id).map(Arc::clone);
        listener
            .ok_or(Error::Invalid("there is no such listener"))?
            .accept(host)
            .map_err(|error| cannot("accept a connection to a port")(errno(&error)))
    }

    /// No thread leaves the map half changed, so one that panicked does not matter.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Listener>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Listener {
    port: u16,
    /// For IPv4 and, where there is any, IPv6. They do not block: several may wait for one.
    sockets: Vec<TcpListener>,
}

impl Listener {
    fn bind(port: u16) -> Result<Self> {
        let taken = |result: &io::Result<Self>| matches!(result, Err(error) if error.kind() == ErrorKind::AddrInUse);
        let mut result = Self::try_bind(port);
        for _ in 0..ATTEMPTS {
            if port != 0 || !taken(&result) {
                break;
            }
            result = Self::try_bind(port);
        }
        result.map_err(|error| cannot(format!("listen on port {port} of the guest"))(errno(&error)))
    }

    fn try_bind(port: u16) -> io::Result<Self> {
        let bind = |address, port| {
            let socket = TcpListener::bind(SocketAddr::new(address, port))?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        let first = bind(IPV4, port)?;
        let port = first.local_addr()?.port();
        let mut sockets = vec![first];
        match bind(IPV6, port) {
            Ok(second) => sockets.push(second),
            Err(error) if is_without_ipv6(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { port, sockets })
    }

    fn accept(&self, host: &Connection) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = vec![readable(host.as_fd())];
            fds.extend(self.sockets.iter().map(|socket| readable(socket.as_fd())));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if fds.first().and_then(PollFd::any).unwrap_or(false) {
                return Ok(None);
            }
            if let Some(accepted) = self.try_accept()? {
                return Ok(Some(accepted));
            }
        }
    }

    /// Takes what waits on either socket, if anything does.
    fn try_accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        for socket in &self.sockets {
            match socket.accept() {
                Ok((stream, from)) => return Ok(Some((stream, from))),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Refuses who waits and who comes, and wakes all that accept.
    fn close(&self) {
        for socket in &self.sockets {
            // It cannot fail while the socket listens, and nothing else closes it.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
    }
}

/// Nobody is there any more, or yet.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
    )
}

/// The kernel has no IPv6, or it was turned off.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(errno(error), Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{namespaces, network};

    #[test]
    fn without_ipv6_a_port_is_one_of_ipv4() {
        namespaces::inside("ports::tests::without_ipv6_a_port_is_one_of_ipv4", || {
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
            network::set_up(None).unwrap();
            let listener = Listener::bind(0).unwrap();
            assert_eq!(listener.sockets.len(), 1);
            connect(listener.port).unwrap();
            let error = connect(1).unwrap_err();
            assert!(wire::chain(&error).contains("ECONNREFUSED"), "{error:?}");
        });
    }

    #[test]
    fn a_port_is_not_connected_to_itself() {
        namespaces::inside("ports::tests::a_port_is_not_connected_to_itself", || {
            network::set_up(None).unwrap();
            // Connections start from here alone.
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40001 40001").unwrap();
            let error = connect(40001).unwrap_err();
            assert!(wire::chain(&error).contains("ECONNREFUSED"), "{error:?}");
        });
    }

    #[test]
    fn a_port_taken_on_either_address_is_in_use() {
        namespaces::inside(
            "ports::tests::a_port_taken_on_either_address_is_in_use",
            || {
                network::set_up(None).unwrap();
                for address in [IPV4, IPV6] {
                    let taken = TcpListener::bind((address, 80)).unwrap();
                    let error = Listener::bind(80).unwrap_err();
                    assert!(wire::chain(&error).contains("EADDRINUSE"), "{error:?}");
                    drop(taken);
                }
                Listener::bind(80).unwrap();
            },
        );
    }
}
