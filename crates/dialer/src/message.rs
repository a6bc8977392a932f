//! Packets to and from the network device, without ever waiting.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recv, sendmsg};

use crate::error::{End, Error};

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The device will find it.
    Done,
    /// There is no room for it now.
    Full,
    /// The kernel has too many descriptors on their way (unix(7), `ETOOMANYREFS`).
    TooManyDescriptors,
}

/// The next packet of the socket called `name`, if there is one. Descriptors with it are not taken.
pub(crate) fn receive<'b>(
    socket: BorrowedFd<'_>,
    name: &'static str,
    buffer: &'b mut [u8],
) -> Result<Option<&'b [u8]>, End> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let length = match recv(socket.as_raw_fd(), buffer, flags) {
        Ok(0) | Err(Errno::ECONNRESET) => return Err(End::Left),
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        other => other.map_err(|errno| Error::System("hear from the device", errno.into()))?,
    };
    let packet = buffer.get(..length);
    let too_long = Error::Device(name, "a message that is too long");
    Ok(Some(packet.ok_or(too_long)?))
}

/// Sends one packet, perhaps with a descriptor.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    packet: &[u8],
    descriptor: Option<&OwnedFd>,
) -> Result<Sent, End> {
    let raw = descriptor.map(|fd| [fd.as_raw_fd()]);
    let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(raw));
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(packet)],
        rights.as_slice(),
        flags,
        None,
    );
    match sent {
        Ok(_) => Ok(Sent::Done),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM) => Ok(Sent::Full),
        Err(Errno::ETOOMANYREFS) => Ok(Sent::TooManyDescriptors),
        Err(Errno::EPIPE | Errno::ECONNRESET) => Err(End::Left),
        Err(errno) => Err(Error::System("answer the device", errno.into()).into()),
    }
}
