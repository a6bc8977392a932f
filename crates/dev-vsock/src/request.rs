//! One packet: its header, and what a packet deserves before any connection is looked at.
//!
//! virtio 1.2, section 5.10.6. The header is read from wherever the driver put it: a packet may
//! lie in one descriptor or in many (section 2.7.4), and Linux uses several kinds of layout.

/// The host's context id.
pub const HOST_CID: u64 = 2;

/// VIRTIO_VSOCK_TYPE_STREAM, the only type served.
pub const TYPE_STREAM: u16 = 1;

/// VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;

/// VIRTIO_VSOCK_SHUTDOWN_F_SEND: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// The largest payload of a packet, in bytes: Linux' VIRTIO_VSOCK_MAX_PKT_BUF_SIZE.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// VIRTIO_VSOCK_OP_*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Open a connection.
    Request = 1,
    /// The connection is open.
    Response = 2,
    /// There is no such connection, or no longer.
    Reset = 3,
    /// One or both directions end.
    Shutdown = 4,
    /// Payload.
    Data = 5,
    /// The header's credit fields are the message.
    CreditUpdate = 6,
    /// Asks for a [`Op::CreditUpdate`].
    CreditRequest = 7,
}

impl Op {
    const fn from_wire(op: u16) -> Option<Self> {
        Some(match op {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Sender.
    pub src_cid: u64,
    /// Receiver.
    pub dst_cid: u64,
    /// Sender's port.
    pub src_port: u32,
    /// Receiver's port.
    pub dst_port: u32,
    /// Bytes of payload.
    pub len: u32,
    /// Type of socket.
    pub kind: u16,
    /// Operation, an [`Op`] if it is known.
    pub op: u16,
    /// Depends on the operation.
    pub flags: u32,
    /// The sender's buffer for this connection, in bytes.
    pub buf_alloc: u32,
    /// Bytes that the sender has taken out of its buffer, ever, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// Bytes of an encoded header.
    pub const SIZE: usize = 44;

    /// Reads the little-endian fields in their order.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// The inverse of [`Header::parse`].
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let fields: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        for (byte, value) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *byte = *value;
        }
        bytes
    }

    /// A reset of the connection between these ports, which answers nothing.
    #[must_use]
    pub fn reset_of(guest_cid: u64, host_port: u32, guest_port: u32) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: host_port,
            dst_port: guest_port,
            kind: TYPE_STREAM,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }

    /// The reset that answers this packet.
    #[must_use]
    pub fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }
}

/// Takes the first `N` bytes of `rest`, which the caller sized to have them.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((first, tail)) => {
            *rest = tail;
            *first
        }
        None => [0; N],
    }
}

/// What to do with a packet from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is not from the guest, or not worth an answer.
    Ignore,
    /// Answer with [`Header::reset`], and end the connection that it names, if any.
    Refuse,
    /// Hand it to the connection that it names.
    Deliver(Op),
}

/// Judges a packet of `payload` bytes by its header alone.
#[must_use]
pub fn judge(header: &Header, payload: usize, guest_cid: u64) -> Verdict {
    if header.src_cid != guest_cid {
        // Not an address of this guest's: an answer would go to someone else.
        return Verdict::Ignore;
    }
    let op = Op::from_wire(header.op);
    if header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
        // A reset is never answered, or two sides would reset each other for ever.
        return if op == Some(Op::Reset) {
            Verdict::Ignore
        } else {
            Verdict::Refuse
        };
    }
    let len = usize::try_from(header.len).unwrap_or(usize::MAX);
    match op {
        Some(Op::Data) if len > payload || len > MAX_PAYLOAD => Verdict::Refuse,
        Some(op) => Verdict::Deliver(op),
        None => Verdict::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> Header {
        Header {
            src_cid: 3,
            dst_cid: HOST_CID,
            src_port: 1000,
            dst_port: 1025,
            kind: TYPE_STREAM,
            op: Op::Request as u16,
            ..Header::default()
        }
    }

    #[test]
    fn a_request_from_the_guest_is_delivered() {
        assert_eq!(judge(&request(), 0, 3), Verdict::Deliver(Op::Request));
    }

    #[test]
    fn a_packet_from_another_context_id_is_ignored() {
        let header = Header {
            src_cid: 4,
            ..request()
        };
        assert_eq!(judge(&header, 0, 3), Verdict::Ignore);
    }

    #[test]
    fn a_packet_to_another_context_id_is_refused() {
        let header = Header {
            dst_cid: 1,
            ..request()
        };
        assert_eq!(judge(&header, 0, 3), Verdict::Refuse);
    }

    #[test]
    fn an_unknown_type_or_operation_is_refused() {
        let header = Header {
            kind: 2,
            ..request()
        };
        assert_eq!(judge(&header, 0, 3), Verdict::Refuse);
        for op in [0, 8, u16::MAX] {
            assert_eq!(judge(&Header { op, ..request() }, 0, 3), Verdict::Refuse);
        }
    }

    #[test]
    fn a_reset_is_never_answered_with_a_reset() {
        let header = Header {
            kind: 9,
            op: Op::Reset as u16,
            ..request()
        };
        assert_eq!(judge(&header, 0, 3), Verdict::Ignore);
    }

    #[test]
    fn data_that_is_longer_than_its_buffers_is_refused() {
        let header = Header {
            op: Op::Data as u16,
            len: 100,
            ..request()
        };
        assert_eq!(judge(&header, 99, 3), Verdict::Refuse);
        assert_eq!(judge(&header, 100, 3), Verdict::Deliver(Op::Data));
        let header = Header {
            len: u32::MAX,
            ..header
        };
        assert_eq!(judge(&header, usize::MAX, 3), Verdict::Refuse);
    }

    proptest! {
        #[test]
        fn a_header_survives_the_wire(bytes: [u8; 32], tail: [u8; 12]) {
            let mut all = [0; Header::SIZE];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&tail);
            prop_assert_eq!(Header::parse(&all).encode(), all);
        }

        #[test]
        fn only_the_guest_s_own_stream_packets_are_delivered(
            bytes: [u8; 32], tail: [u8; 12], payload in 0usize..100_000, guest in 3u64..10,
        ) {
            let mut all = [0; Header::SIZE];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&tail);
            let header = Header::parse(&all);
            if let Verdict::Deliver(_) = judge(&header, payload, guest) {
                prop_assert_eq!((header.src_cid, header.dst_cid), (guest, HOST_CID));
            }
        }
    }
}
