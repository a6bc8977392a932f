//! Packets and descriptors over `AF_UNIX` `SOCK_SEQPACKET`: the system calls.

#![expect(
    unsafe_code,
    reason = "an inherited descriptor is adopted, and recvmsg is called by hand: when control \
              messages are truncated, descriptors that did arrive must be closed, not leaked"
)]

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt,
    socketpair, sockopt,
};
use nix::sys::time::TimeVal;

/// The kernel passes at most this many descriptors at once (`SCM_MAX_FD`). Room for all of them
/// means that a peer cannot make the kernel drop some of them silently.
const KERNEL_MAX_FDS: usize = 253;

/// Room for a control message with [`KERNEL_MAX_FDS`] descriptors of 4 bytes, and 64 bytes for its
/// header, in words so that it is aligned as `cmsghdr` needs.
const CONTROL_WORDS: usize = KERNEL_MAX_FDS / 2 + 8;

/// One received packet.
#[derive(Debug)]
pub(crate) struct Packet {
    /// How many bytes of the buffer are filled; 0 if the peer is gone.
    pub(crate) length: usize,
    /// Every descriptor that came along, close-on-exec.
    pub(crate) fds: Vec<OwnedFd>,
    /// The packet, or its descriptors, did not fit and the rest is lost.
    pub(crate) truncated: bool,
}

/// A connected pair of sockets, close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Takes ownership of an inherited descriptor if it is a Unix socket with packets, and makes it
/// close-on-exec. The caller makes sure that this happens at most once for a descriptor.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if integer_option(fd, libc::SO_DOMAIN)? != libc::AF_UNIX
        || integer_option(fd, libc::SO_TYPE)? != libc::SOCK_SEQPACKET
    {
        return Err(Errno::EPROTOTYPE.into());
    }
    // SAFETY: the descriptor is open, as getsockopt succeeded; a component inherits it for this
    // very purpose, and it is adopted at most once, so nothing else owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::fcntl::fcntl(
        &owned,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    Ok(owned)
}

/// Reads an integer option of a descriptor that may not even be open.
fn integer_option(fd: RawFd, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = socket_length(size_of::<libc::c_int>());
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `value`.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(value)
}

/// A size that is known to be small, as `socklen_t`.
fn socket_length(size: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(size).unwrap_or(0)
}

/// Limits how long sending and receiving block; `None` is for ever.
pub(crate) fn set_timeout(socket: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<()> {
    // Zero means "for ever" to the kernel.
    let limit = limit.map_or(Duration::ZERO, |limit| {
        limit.clamp(Duration::from_micros(1), Duration::from_secs(1 << 30))
    });
    let value = TimeVal::new(
        limit.as_secs().try_into().unwrap_or(0),
        limit.subsec_micros().into(),
    );
    setsockopt(&socket, sockopt::ReceiveTimeout, &value)?;
    setsockopt(&socket, sockopt::SendTimeout, &value)?;
    Ok(())
}

/// Sends `bytes` as one packet, accompanied by `fds`.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[] } else { &rights[..] };
    let vector = [IoSlice::new(bytes)];
    loop {
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<UnixAddr>(socket.as_raw_fd(), &vector, control, flags, None) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one packet into `buffer`.
#[allow(
    clippy::useless_conversion,
    reason = "msg_controllen is 32 bits wide in musl, 64 in glibc"
)]
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is a C struct of integers and pointers, for which zeros are valid.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control).try_into().unwrap_or(0);
    let length = loop {
        // SAFETY: the header names `buffer` and `control` with their true lengths; both outlive
        // the call and nothing else refers to them during it.
        let result =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(result) {
            Ok(length) => break usize::try_from(length).unwrap_or(0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let filled = usize::try_from(header.msg_controllen).unwrap_or(0);
    Ok(Packet {
        length,
        fds: take_fds(&control, filled),
        truncated: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
    })
}

/// Owns every descriptor in the first `filled` bytes of `control`, which the kernel just wrote.
fn take_fds(control: &[u64; CONTROL_WORDS], filled: usize) -> Vec<OwnedFd> {
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut rest = bytes.get(..filled).unwrap_or(&bytes);
    let mut fds = Vec::new();
    while let Some((kind, payload, next)) = split_control(rest) {
        if kind == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for chunk in payload.as_chunks::<4>().0 {
                // SAFETY: the kernel installed this descriptor in our table for this message;
                // each control buffer is read once, so nothing else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*chunk)) });
            }
        }
        rest = next;
    }
    fds
}

/// A control message: its level and type, its payload, and the bytes that follow it.
type Control<'a> = ((libc::c_int, libc::c_int), &'a [u8], &'a [u8]);

/// Splits the first control message off.
fn split_control(bytes: &[u8]) -> Option<Control<'_>> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    const WORD: usize = size_of::<usize>();
    // As the kernel lays it out: a length of one word, a level, a type.
    let (length, rest) = bytes.split_first_chunk::<WORD>()?;
    let (level, rest) = rest.split_first_chunk::<4>()?;
    let (kind, _) = rest.split_first_chunk::<4>()?;
    let length = usize::from_ne_bytes(*length);
    let payload = bytes.get(HEADER..length)?;
    let next = length.checked_next_multiple_of(WORD)?;
    let kind = (
        libc::c_int::from_ne_bytes(*level),
        libc::c_int::from_ne_bytes(*kind),
    );
    Some((kind, payload, bytes.get(next..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_arrive_close_on_exec() {
        let (left, right) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(left.as_fd(), b"x", &[file.as_fd(), left.as_fd()]).unwrap();
        let mut buffer = [0; 8];
        let packet = receive(right.as_fd(), &mut buffer).unwrap();
        assert_eq!((packet.length, packet.truncated), (1, false));
        assert_eq!(packet.fds.len(), 2);
        for fd in packet.fds {
            let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags, libc::FD_CLOEXEC);
        }
    }

    #[test]
    fn a_packet_longer_than_the_buffer_is_reported_as_truncated() {
        let (left, right) = pair().unwrap();
        send(left.as_fd(), &[7; 100], &[]).unwrap();
        let packet = receive(right.as_fd(), &mut [0; 99]).unwrap();
        assert!(packet.truncated);
    }

    #[test]
    fn a_control_message_with_a_length_beyond_the_buffer_is_not_read() {
        let mut bytes = [0_u8; 24];
        bytes[..8].copy_from_slice(&1000_usize.to_ne_bytes());
        assert!(split_control(&bytes).is_none());
        bytes[..8].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert!(split_control(&bytes).is_none());
        bytes[..8].copy_from_slice(&3_usize.to_ne_bytes());
        assert!(split_control(&bytes).is_none());
        assert!(split_control(&bytes[..15]).is_none());
    }

    #[test]
    fn something_that_is_not_a_packet_socket_is_not_adopted() {
        let (stream, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(adopt(stream.as_raw_fd()).is_err());
        assert!(adopt(-1).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(adopt(file.as_raw_fd()).is_err());
    }
}
