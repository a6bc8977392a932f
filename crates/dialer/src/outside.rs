//! Sockets of the Internet, and what their errors mean.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, setsockopt, socket,
    sockopt,
};
use wire::net::Failure;

/// What a socket for datagrams carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Carrier {
    /// UDP.
    Udp,
    /// Echo requests and replies of ICMP or ICMPv6 (icmp(7)).
    Echo,
}

/// A TCP socket on its way, or there already.
pub(crate) enum Dialled {
    /// It will be writable once it is connected, or is not going to be.
    Connecting(OwnedFd),
    /// It is connected.
    Connected(OwnedFd),
}

/// Neither blocks nor outlives an exec.
const FLAGS: SockFlag = SockFlag::SOCK_NONBLOCK.union(SockFlag::SOCK_CLOEXEC);

/// Begins to connect a TCP socket.
pub(crate) fn dial(address: SocketAddr) -> Result<Dialled, Errno> {
    let socket = socket(family(address.is_ipv6()), SockType::Stream, FLAGS, None)?;
    // Segments of the guest are as large as it wants them to be.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) => Ok(Dialled::Connected(socket)),
        Err(Errno::EINPROGRESS) => Ok(Dialled::Connecting(socket)),
        Err(errno) => Err(errno),
    }
}

/// A socket for datagrams to anywhere, which is told when they do not arrive.
pub(crate) fn datagrams(carrier: Carrier, is_v6: bool) -> Result<UdpSocket, Errno> {
    let protocol = match (carrier, is_v6) {
        (Carrier::Udp, _) => None,
        (Carrier::Echo, false) => Some(SockProtocol::Icmp),
        (Carrier::Echo, true) => Some(SockProtocol::IcmpV6),
    };
    let socket = socket(family(is_v6), SockType::Datagram, FLAGS, protocol)?;
    if is_v6 {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    hear_errors(socket, is_v6)
}

/// Has a socket told of what an ICMP message says about what it sent (ip(7), `IP_RECVERR`).
pub(crate) fn hear_errors(socket: OwnedFd, is_v6: bool) -> Result<UdpSocket, Errno> {
    if is_v6 {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    // One of IPv6 may carry IPv4, too.
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    Ok(socket.into())
}

const fn family(is_v6: bool) -> AddressFamily {
    if is_v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

/// What the guest is told about an error of a socket.
pub(crate) const fn failure(errno: Errno) -> Failure {
    match errno {
        Errno::ECONNREFUSED | Errno::ECONNRESET => Failure::Refused,
        Errno::ETIMEDOUT => Failure::TimedOut,
        // Landlock's or a firewall's answer, and that to a broadcast.
        Errno::EACCES | Errno::EPERM => Failure::Denied,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN => {
            Failure::Exhausted
        }
        _ => Failure::Unreachable,
    }
}
