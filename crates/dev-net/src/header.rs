//! `struct virtio_net_hdr`, which goes before every packet, and the device's feature bits.

/// VIRTIO_NET_F_* (virtio 1.2, section 5.1.3).
pub mod feature {
    /// The driver may leave checksums to the device.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes packets whose checksums are left to it.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The configuration space has the MTU.
    pub const MTU: u64 = 1 << 3;
    /// The configuration space has the hardware address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes large TCP packets over IPv4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes large TCP packets over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The device takes large TCP packets over IPv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device takes large TCP packets over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// A packet may lie in several receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The configuration space has the state of the link.
    pub const STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// The control queue takes filter modes.
    pub const CTRL_RX: u64 = 1 << 18;
    /// There may be several pairs of queues.
    pub const MQ: u64 = 1 << 22;
    /// The control queue takes a hardware address.
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
    /// The driver takes large UDP packets over IPv4.
    pub const GUEST_USO4: u64 = 1 << 54;
    /// The driver takes large UDP packets over IPv6.
    pub const GUEST_USO6: u64 = 1 << 55;
    /// The device takes large UDP packets.
    pub const HOST_USO: u64 = 1 << 56;
    /// VIRTIO_F_IN_ORDER (section 6): buffers are used in the order in which they came.
    pub const IN_ORDER: u64 = 1 << 35;
}

/// VIRTIO_NET_HDR_F_NEEDS_CSUM.
const NEEDS_CHECKSUM: u8 = 1;

/// VIRTIO_NET_HDR_GSO_ECN, beside a kind.
const WITH_ECN: u8 = 0x80;

/// VIRTIO_NET_HDR_GSO_*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, each segment a datagram of its own (USO).
    Udp,
}

impl Segments {
    const fn code(self) -> u8 {
        match self {
            Self::Tcp4 => 1,
            Self::Tcp6 => 4,
            Self::Udp => 5,
        }
    }
}

/// What goes before a packet (virtio 1.2, section 5.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Where a checksum has to be put: the first byte that it covers, and how far behind that byte
    /// it lies, both in bytes.
    pub checksum: Option<(u16, u16)>,
    /// The packet is to be cut: how, and the bytes of payload in each piece.
    pub segments: Option<(Segments, u16)>,
    /// Bytes of all headers, a hint.
    pub header_length: u16,
    /// Receive buffers that the packet lies in.
    pub buffers: u16,
}

impl Header {
    /// Its length with VIRTIO_F_VERSION_1.
    pub const SIZE: usize = 12;

    /// Where it has the number of buffers.
    pub const BUFFERS: usize = 10;

    /// Reads one of the driver's. What it says of kinds that do not exist is not heeded.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Self {
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1, b0, b1] = *bytes;
        let size = u16::from_le_bytes([s0, s1]);
        let segments = match kind & !WITH_ECN {
            1 => Some(Segments::Tcp4),
            4 => Some(Segments::Tcp6),
            5 => Some(Segments::Udp),
            _ => None,
        };
        let checksum = (u16::from_le_bytes([c0, c1]), u16::from_le_bytes([o0, o1]));
        Self {
            checksum: (flags & NEEDS_CHECKSUM != 0).then_some(checksum),
            segments: segments.filter(|_| size > 0).map(|kind| (kind, size)),
            header_length: u16::from_le_bytes([h0, h1]),
            buffers: u16::from_le_bytes([b0, b1]),
        }
    }

    /// As the driver reads it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let flags = if self.checksum.is_some() {
            NEEDS_CHECKSUM
        } else {
            0
        };
        let kind = self.segments.map_or(0, |(kind, _)| kind.code());
        let (start, offset) = self.checksum.unwrap_or_default();
        let [h0, h1] = self.header_length.to_le_bytes();
        let [s0, s1] = self.segments.map_or(0, |(_, size)| size).to_le_bytes();
        let [c0, c1] = start.to_le_bytes();
        let [o0, o1] = offset.to_le_bytes();
        let [b0, b1] = self.buffers.to_le_bytes();
        [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1, b0, b1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let kinds = [Segments::Tcp4, Segments::Tcp6, Segments::Udp];
        for segments in kinds
            .map(|kind| Some((kind, 1448)))
            .into_iter()
            .chain([None])
        {
            for checksum in [None, Some((34, 16))] {
                let header = Header {
                    checksum,
                    segments,
                    header_length: 54,
                    buffers: 3,
                };
                assert_eq!(Header::parse(&header.encode()), header);
            }
        }
    }

    #[test]
    fn segments_of_no_bytes_and_of_unknown_kinds_are_none() {
        let bytes = |kind, size| [0, kind, 0, 0, size, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Header::parse(&bytes(1, 0)).segments, None);
        assert_eq!(Header::parse(&bytes(3, 9)).segments, None);
        let with_ecn = Header::parse(&bytes(0x81, 9)).segments;
        assert_eq!(with_ecn, Some((Segments::Tcp4, 9)));
    }
}
