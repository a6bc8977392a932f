//! The host's line to the guest.

use std::os::{
    fd::{AsFd, AsRawFd, OwnedFd},
    unix::net::UnixStream,
};

use nix::{
    libc::{VMADDR_CID_ANY, VMADDR_CID_HOST},
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, listen, socket,
    },
};

use crate::{
    error::{Result, cannot},
    serve::Connection,
    sys,
};

/// Listens on a port of the guest.
pub(crate) fn listener(port: u32) -> Result<OwnedFd> {
    let socket = stream()?;
    let address = VsockAddr::new(VMADDR_CID_ANY, port);
    // What does not fit the backlog is refused at once, and fifty commands are two hundred
    // connections: as long as the kernel allows.
    bind(socket.as_raw_fd(), &address)
        .and_then(|()| listen(&socket, Backlog::MAXALLOWABLE))
        .map_err(cannot(format!("listen on vsock port {port}")))?;
    Ok(socket)
}

/// Takes the next connection.
pub(crate) fn accept(listener: &OwnedFd) -> nix::Result<Connection> {
    sys::accept(listener.as_fd()).map(UnixStream::from)
}

/// Connects to a port of the host.
pub(crate) fn connect_to_host(port: u32) -> Result<Connection> {
    let socket = stream()?;
    connect(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_HOST, port))
        .map_err(cannot(format!("connect to vsock port {port} of the host")))?;
    Ok(UnixStream::from(socket))
}

fn stream() -> Result<OwnedFd> {
    let (family, flags) = (AddressFamily::Vsock, SockFlag::SOCK_CLOEXEC);
    socket(family, SockType::Stream, flags, None).map_err(cannot("open a vsock socket"))
}
