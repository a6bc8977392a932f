//! What stands on the host, for the hostile component to reach for.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::atomic::Ordering;

use libtest_mimic::Failed;

use crate::host::{Jailed, Order, SIBLING};

/// What must live as long as the tests do.
pub(crate) struct Targets {
    /// Of the main thread, with which it ends.
    _sibling: Jailed,
    _sockets: (UnixListener, UnixDatagram),
}

/// Sets everything up.
pub(crate) fn stand() -> Result<Targets, Failed> {
    let name = abstract_name(i32::try_from(std::process::id())?);
    let address = SocketAddr::from_abstract_name(name)?;
    let sockets = (
        UnixListener::bind_addr(&address)?,
        UnixDatagram::bind_addr(&address)?,
    );
    let sibling = Jailed::start(&Order::new("dev-vsock", &[])?)?;
    SIBLING.store(sibling.process.pid(), Ordering::Relaxed);
    Ok(Targets {
        _sibling: sibling,
        _sockets: sockets,
    })
}

/// The abstract name on which the process `host` listens: 16 bytes.
pub(crate) fn abstract_name(host: i32) -> String {
    format!("crumble-{host:08}")
}
