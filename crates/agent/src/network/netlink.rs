//! The kernel's routing socket.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::message::{Message, outcome};

/// Longer than any answer, which is an error number and the request.
const ANSWER: usize = 4096;

/// A conversation with the kernel.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> nix::Result<Self> {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, kind, flags, protocol)?;
        let sequence = 0;
        Ok(Self { socket, sequence })
    }

    /// Asks for one thing, which is done when this returns.
    pub(super) fn ask(&mut self, message: &Message) -> nix::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = message.finish(self.sequence);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut answer = [0; ANSWER];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            let datagram = answer.get(..length).unwrap_or_default();
            if let Some(outcome) = outcome(datagram, self.sequence) {
                return outcome;
            }
        }
    }
}
