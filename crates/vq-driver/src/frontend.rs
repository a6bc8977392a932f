//! The front end's half of vhost-user: messages, one method each.

use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::{Error, Memory, memory};

/// VHOST_USER_F_PROTOCOL_FEATURES, a bit of the virtio features.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// VHOST_USER_PROTOCOL_F_MQ: GET_QUEUE_NUM is allowed.
pub const PROTOCOL_MQ: u64 = 1 << 0;

/// VHOST_USER_PROTOCOL_F_REPLY_ACK.
pub const PROTOCOL_REPLY_ACK: u64 = 1 << 3;

/// VHOST_USER_PROTOCOL_F_CONFIG.
pub const PROTOCOL_CONFIG: u64 = 1 << 9;

const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Request codes, as far as they are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    SetMemTable = 5,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    GetConfig = 24,
}

/// Where a ring's parts are, as this process sees them.
#[derive(Debug, Clone, Copy)]
pub struct RingAddress {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// A connection to a device process.
#[derive(Debug)]
pub struct Frontend {
    stream: UnixStream,
    /// Ask for an acknowledgement of each request that has no other answer.
    acknowledged: bool,
}

impl Frontend {
    /// Speaks over `stream`; an answer that takes longer than `patience` is an error.
    ///
    /// # Errors
    /// If the time-out cannot be set.
    pub fn new(stream: UnixStream, patience: Duration) -> Result<Self, Error> {
        stream
            .set_read_timeout(Some(patience))
            .map_err(Error::Socket)?;
        Ok(Self {
            stream,
            acknowledged: false,
        })
    }

    /// The socket, to close or to misuse.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends any request code with any body and file descriptors, and waits for nothing.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn send_raw(
        &self,
        request: u32,
        flags: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(12 + body.len());
        bytes.extend(request.to_le_bytes());
        bytes.extend((VERSION | flags).to_le_bytes());
        bytes.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(body);
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL;
        let fd = self.stream.as_raw_fd();
        sendmsg::<()>(fd, &[IoSlice::new(&bytes)], control, flags, None)
            .map_err(|error| Error::Socket(error.into()))?;
        Ok(())
    }

    fn receive(&self, request: Request) -> Result<Vec<u8>, Error> {
        let mut header = [0; 12];
        let mut stream = &self.stream;
        stream.read_exact(&mut header).map_err(Error::Socket)?;
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let size = word(8) as usize;
        if word(0) != request as u32 || word(4) & REPLY == 0 || size > 4096 {
            return Err(Error::Answer(request));
        }
        let mut body = vec![0; size];
        stream.read_exact(&mut body).map_err(Error::Socket)?;
        Ok(body)
    }

    /// Sends a request that is answered with a number.
    fn ask(&self, request: Request, body: &[u8]) -> Result<u64, Error> {
        self.send_raw(request as u32, 0, body, &[])?;
        number(request, &self.receive(request)?)
    }

    /// Sends a request that is acknowledged, if that has been negotiated.
    fn tell(&self, request: Request, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let flags = if self.acknowledged { NEED_REPLY } else { 0 };
        self.send_raw(request as u32, flags, body, fds)?;
        if self.acknowledged && number(request, &self.receive(request)?)? != 0 {
            return Err(Error::Refused(request));
        }
        Ok(())
    }

    fn tell_ring(&self, request: Request, index: u32, value: u32) -> Result<(), Error> {
        self.tell(request, &pair(index, value), &[])
    }

    /// GET_FEATURES.
    ///
    /// # Errors
    /// Here and below: [`Error::Socket`] if the device is gone or silent, [`Error::Refused`] if
    /// it said no, [`Error::Answer`] if it answered nonsense.
    pub fn features(&self) -> Result<u64, Error> {
        self.ask(Request::GetFeatures, &[])
    }

    /// SET_FEATURES.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn set_features(&self, features: u64) -> Result<(), Error> {
        self.tell(Request::SetFeatures, &features.to_le_bytes(), &[])
    }

    /// SET_OWNER.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn set_owner(&self) -> Result<(), Error> {
        self.tell(Request::SetOwner, &[], &[])
    }

    /// GET_PROTOCOL_FEATURES.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn protocol_features(&self) -> Result<u64, Error> {
        self.ask(Request::GetProtocolFeatures, &[])
    }

    /// SET_PROTOCOL_FEATURES. With [`PROTOCOL_REPLY_ACK`] every later request is acknowledged.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn set_protocol_features(&mut self, features: u64) -> Result<(), Error> {
        self.tell(Request::SetProtocolFeatures, &features.to_le_bytes(), &[])?;
        self.acknowledged = features & PROTOCOL_REPLY_ACK != 0;
        Ok(())
    }

    /// GET_QUEUE_NUM.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn queue_count(&self) -> Result<u64, Error> {
        self.ask(Request::GetQueueNum, &[])
    }

    /// GET_CONFIG: `length` bytes of the configuration space from `offset`.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn config(&self, offset: u32, length: u32) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        body.extend(offset.to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(0u32.to_le_bytes());
        body.resize(12 + length as usize, 0);
        self.send_raw(Request::GetConfig as u32, 0, &body, &[])?;
        let answer = self.receive(Request::GetConfig)?;
        if answer.len() != body.len() {
            return Err(Error::Refused(Request::GetConfig));
        }
        Ok(answer[12..].to_vec())
    }

    /// SET_MEM_TABLE with all of `memory` as one region.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn set_memory(&self, memory: &Memory) -> Result<(), Error> {
        let mut body = pair(1, 0);
        for field in [memory::BASE, memory.size() as u64, memory.user_address(), 0] {
            body.extend(field.to_le_bytes());
        }
        self.tell(Request::SetMemTable, &body, &[memory.fd()])
    }

    /// SET_VRING_NUM.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn set_ring_size(&self, index: u32, size: u16) -> Result<(), Error> {
        self.tell_ring(Request::SetVringNum, index, size.into())
    }

    /// SET_VRING_ADDR.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn set_ring_address(&self, index: u32, address: RingAddress) -> Result<(), Error> {
        let mut body = pair(index, 0);
        for field in [address.descriptors, address.used, address.available, 0] {
            body.extend(field.to_le_bytes());
        }
        self.tell(Request::SetVringAddr, &body, &[])
    }

    /// SET_VRING_BASE: the available index to go on from.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn set_ring_base(&self, index: u32, base: u16) -> Result<(), Error> {
        self.tell_ring(Request::SetVringBase, index, base.into())
    }

    /// GET_VRING_BASE: stops the ring; the available index that it got to.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn stop_ring(&self, index: u32) -> Result<u16, Error> {
        let answer = self.ask(Request::GetVringBase, &pair(index, 0))?;
        u16::try_from(answer >> 32).map_err(|_| Error::Answer(Request::GetVringBase))
    }

    /// SET_VRING_KICK.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn set_ring_kick(&self, index: u8, kick: BorrowedFd<'_>) -> Result<(), Error> {
        self.tell(
            Request::SetVringKick,
            &u64::from(index).to_le_bytes(),
            &[kick],
        )
    }

    /// SET_VRING_CALL.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn set_ring_call(&self, index: u8, call: BorrowedFd<'_>) -> Result<(), Error> {
        self.tell(
            Request::SetVringCall,
            &u64::from(index).to_le_bytes(),
            &[call],
        )
    }

    /// SET_VRING_ENABLE.
    ///
    /// # Errors
    /// See [`Frontend::features`].
    pub fn enable_ring(&self, index: u32, enable: bool) -> Result<(), Error> {
        self.tell_ring(Request::SetVringEnable, index, enable.into())
    }
}

fn pair(first: u32, second: u32) -> Vec<u8> {
    let mut bytes = first.to_le_bytes().to_vec();
    bytes.extend(second.to_le_bytes());
    bytes
}

fn number(request: Request, body: &[u8]) -> Result<u64, Error> {
    let bytes = body.try_into().map_err(|_| Error::Answer(request))?;
    Ok(u64::from_le_bytes(bytes))
}
