//! What stands on the host, for the hostile component to reach for.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::atomic::Ordering;

use libtest_mimic::Failed;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};

use crate::host::{GRANTED_PORT, Jailed, Order, PORT, SIBLING};

/// What must live as long as the tests do.
pub(crate) struct Targets {
    /// Of the main thread, with which it ends.
    _sibling: Jailed,
    _sockets: (UnixListener, UnixDatagram, OwnedFd),
    _ports: [TcpListener; 2],
}

/// Sets everything up.
pub(crate) fn stand() -> Result<Targets, Failed> {
    let id = i32::try_from(std::process::id())?;
    let name = abstract_name(id);
    let address = SocketAddr::from_abstract_name(name)?;
    let sockets = (
        UnixListener::bind_addr(&address)?,
        UnixDatagram::bind_addr(&address)?,
        packets(id)?,
    );
    let ports = [&GRANTED_PORT, &PORT].map(|port| -> Result<_, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        port.store(listener.local_addr()?.port(), Ordering::Relaxed);
        Ok(listener)
    });
    let [granted, other] = ports;
    let sibling = Jailed::start(&Order::new("dev-vsock", &[])?)?;
    SIBLING.store(sibling.process.pid(), Ordering::Relaxed);
    Ok(Targets {
        _sibling: sibling,
        _sockets: sockets,
        _ports: [granted?, other?],
    })
}

/// A socket for packets that listens on [`packet_name`].
fn packets(host: i32) -> Result<OwnedFd, Failed> {
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    let listener = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new_abstract(packet_name(host).as_bytes())?;
    socket::bind(listener.as_raw_fd(), &address)?;
    socket::listen(&listener, Backlog::MAXCONN)?;
    Ok(listener)
}

/// As [`abstract_name`], of the socket for packets: 13 bytes.
pub(crate) fn packet_name(host: i32) -> String {
    format!("packet{host:07}")
}

/// The abstract name on which the process `host` listens: 16 bytes.
pub(crate) fn abstract_name(host: i32) -> String {
    format!("crumble-{host:08}")
}
