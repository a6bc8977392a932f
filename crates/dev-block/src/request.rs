//! One request: what it asks for, judged by its header and the lengths of its parts, before anything
//! is done (virtio 1.2, section 5.2.6).
//!
//! A request is a header of 16 bytes and what the driver hands over, both for the device to read; then
//! what it gets back and one byte of status, both for the device to write. Where one descriptor ends
//! and the next begins does not matter (section 2.7.4).

use wire::block::Config;

/// Feature bits (virtio 1.2, section 5.2.3).
pub mod feature {
    /// The most buffers of a request are in the configuration space.
    pub const SEG_MAX: u64 = 1 << 2;
    /// Nothing can be written.
    pub const RO: u64 = 1 << 5;
    /// The size of a block is in the configuration space.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// What is written may be kept until it is flushed.
    pub const FLUSH: u64 = 1 << 9;
    /// Sizes that work well are in the configuration space.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// There is more than one queue.
    pub const MQ: u64 = 1 << 12;
    /// Sectors may be given back.
    pub const DISCARD: u64 = 1 << 13;
    /// Sectors may be zeroed without sending zeros.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// VIRTIO_BLK_T_*.
pub mod kind {
    /// Reads sectors.
    pub const IN: u32 = 0;
    /// Writes sectors.
    pub const OUT: u32 = 1;
    /// What was written is to be kept for good.
    pub const FLUSH: u32 = 4;
    /// Asks for the serial number.
    pub const GET_ID: u32 = 8;
    /// Gives sectors back: what is in them does not matter any more.
    pub const DISCARD: u32 = 11;
    /// Zeroes sectors.
    pub const WRITE_ZEROES: u32 = 13;
}

/// The most ranges of one discard.
pub const DISCARD_RANGES: u32 = 32;

/// The most sectors of one range to be discarded: 1 GiB.
pub const DISCARD_SECTORS: u32 = 1 << 21;

/// The most sectors to be zeroed by one request, which has one range: 64 MiB. Where the file system
/// cannot zero them by itself, as many zeros are written.
pub const ZERO_SECTORS: u32 = 1 << 17;

/// VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP.
const UNMAP: u32 = 1;

/// VIRTIO_BLK_S_*: what became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It was carried out.
    Ok = 0,
    /// It makes no sense, or the file failed.
    IoError = 1,
    /// It is of a kind that was not agreed on.
    Unsupported = 2,
}

/// `struct virtio_blk_req` up to its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// One of [`kind`], or nonsense.
    pub kind: u32,
    /// Where, for what reads and writes.
    pub sector: u64,
}

impl Header {
    /// Bytes of an encoded header: the kind, four reserved bytes, the sector.
    pub const SIZE: usize = 16;

    /// Reads the little-endian fields.
    #[must_use]
    pub fn parse(bytes: [u8; Self::SIZE]) -> Self {
        let [a, b, c, d, _, _, _, _, sector @ ..] = bytes;
        Self {
            kind: u32::from_le_bytes([a, b, c, d]),
            sector: u64::from_le_bytes(sector),
        }
    }

    /// The inverse of [`Header::parse`].
    #[must_use]
    pub fn encode(self) -> [u8; Self::SIZE] {
        let all = u128::from(self.kind) | (u128::from(self.sector) << 64);
        all.to_le_bytes()
    }
}

/// What there is to do. Places are bytes of the disk, within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Fill what is writable from here.
    Read {
        /// Where it begins.
        at: u64,
    },
    /// Write what is readable here.
    Write {
        /// Where it begins.
        at: u64,
    },
    /// Keep what was written.
    Flush,
    /// Say the serial number.
    Serial,
    /// What is readable is ranges to be freed or zeroed, to be looked at with [`ranges`].
    Clear(Clear),
}

/// What becomes of ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clear {
    /// They are given back.
    Discard,
    /// They read as zeros.
    Zero,
}

/// A part of the disk to be freed or zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub at: u64,
    /// How many bytes.
    pub length: u64,
    /// It need not have room in the file any more.
    pub unmap: bool,
}

impl Range {
    /// Bytes of an encoded range: sector, number of sectors, flags
    /// (`struct virtio_blk_discard_write_zeroes`).
    pub const SIZE: usize = 16;
}

/// What requests are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Sectors of the disk, at most 2^63 / 512.
    pub sectors: u64,
    /// What the driver agreed to, of what was offered.
    pub features: u64,
    /// Nothing can be written, whatever was agreed.
    pub read_only: bool,
}

impl Rules {
    fn need(&self, feature: u64) -> Result<(), Status> {
        if self.features & feature == 0 {
            return Err(Status::Unsupported);
        }
        Ok(())
    }

    /// The first byte of sectors that are all within the disk.
    fn place(&self, sector: u64, count: u64) -> Result<u64, Status> {
        let end = sector.checked_add(count).ok_or(Status::IoError)?;
        if end > self.sectors {
            return Err(Status::IoError);
        }
        sector.checked_mul(Config::SECTOR).ok_or(Status::IoError)
    }

    /// As [`Rules::place`], for whole sectors of data.
    fn data(&self, sector: u64, length: usize) -> Result<u64, Status> {
        let length = u64::try_from(length).map_err(|_| Status::IoError)?;
        if !length.is_multiple_of(Config::SECTOR) {
            return Err(Status::IoError);
        }
        self.place(sector, length / Config::SECTOR)
    }
}

/// Judges a request with `readable` bytes behind its header and `writable` bytes before its status.
///
/// # Errors
/// The status that it ends with, without any effect.
pub fn judge(
    header: Header,
    readable: usize,
    writable: usize,
    rules: &Rules,
) -> Result<Request, Status> {
    let sector = header.sector;
    match (header.kind, readable, writable) {
        (kind::IN, 0, length) => rules.data(sector, length).map(|at| Request::Read { at }),
        (kind::OUT, length, 0) if !rules.read_only => {
            rules.data(sector, length).map(|at| Request::Write { at })
        }
        (kind::FLUSH, ..) => rules.need(feature::FLUSH).map(|()| Request::Flush),
        (kind::GET_ID, _, Config::MAX_SERIAL..) => Ok(Request::Serial),
        (kind::DISCARD, ..) => {
            rules.need(feature::DISCARD)?;
            count(readable, writable, DISCARD_RANGES)?;
            Ok(Request::Clear(Clear::Discard))
        }
        (kind::WRITE_ZEROES, ..) => {
            rules.need(feature::WRITE_ZEROES)?;
            count(readable, writable, 1)?;
            Ok(Request::Clear(Clear::Zero))
        }
        (kind::IN | kind::OUT | kind::GET_ID, ..) => Err(Status::IoError),
        _ => Err(Status::Unsupported),
    }
}

/// Whole ranges, at least one and at most so many, and nothing to be given back.
fn count(readable: usize, writable: usize, most: u32) -> Result<(), Status> {
    let count = readable / Range::SIZE;
    let enough = (1..=most).contains(&u32::try_from(count).unwrap_or(u32::MAX));
    if enough && readable.is_multiple_of(Range::SIZE) && writable == 0 {
        return Ok(());
    }
    Err(Status::IoError)
}

/// The ranges that `bytes` encode.
///
/// # Errors
/// If one of them cannot be cleared: the status that the request ends with, without any effect.
pub fn ranges(bytes: &[u8], clear: Clear, rules: &Rules) -> Result<Vec<Range>, Status> {
    let (entries, _) = bytes.as_chunks::<{ Range::SIZE }>();
    entries
        .iter()
        .map(|entry| range(*entry, clear, rules))
        .collect()
}

fn range(entry: [u8; Range::SIZE], clear: Clear, rules: &Rules) -> Result<Range, Status> {
    let [a, b, c, d, e, f, g, h, count @ .., i, j, k, l] = entry;
    let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let (count, flags) = (u32::from_le_bytes(count), u32::from_le_bytes([i, j, k, l]));
    // Section 5.2.6.2: a flag that is not known, or has no meaning, is not supported.
    let (known, most) = match clear {
        Clear::Discard => (0, DISCARD_SECTORS),
        Clear::Zero => (UNMAP, ZERO_SECTORS),
    };
    if flags & !known != 0 {
        return Err(Status::Unsupported);
    }
    if count > most {
        return Err(Status::IoError);
    }
    Ok(Range {
        at: rules.place(sector, count.into())?,
        length: u64::from(count).saturating_mul(Config::SECTOR),
        unmap: flags & UNMAP != 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        sectors: 100,
        features: feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES,
        read_only: false,
    };

    const READ_ONLY: Rules = Rules {
        sectors: 100,
        features: feature::RO,
        read_only: true,
    };

    fn judged(kind: u32, sector: u64, readable: usize, writable: usize) -> Result<Request, Status> {
        judge(Header { kind, sector }, readable, writable, &RULES)
    }

    fn entry(sector: u64, count: u32, flags: u32) -> Vec<u8> {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    }

    #[test]
    fn sectors_within_the_disk_are_read_and_written() {
        assert_eq!(judged(kind::IN, 3, 0, 512), Ok(Request::Read { at: 1536 }));
        assert_eq!(
            judged(kind::OUT, 99, 512, 0),
            Ok(Request::Write { at: 99 * 512 })
        );
        assert_eq!(
            judged(kind::IN, 0, 0, 100 * 512),
            Ok(Request::Read { at: 0 })
        );
        // Nothing, at the very end.
        assert_eq!(
            judged(kind::OUT, 100, 0, 0),
            Ok(Request::Write { at: 51200 })
        );
    }

    #[test]
    fn sectors_beyond_the_disk_and_parts_of_sectors_are_errors() {
        for (sector, length) in [
            (100, 512),
            (99, 1024),
            (101, 0),
            (u64::MAX, 512),
            (u64::MAX, 0),
            (1 << 55, 512),
            (0, 511),
            (0, 513),
            (0, 1),
        ] {
            assert_eq!(judged(kind::IN, sector, 0, length), Err(Status::IoError));
            assert_eq!(judged(kind::OUT, sector, length, 0), Err(Status::IoError));
        }
    }

    #[test]
    fn data_of_the_wrong_direction_is_an_error() {
        assert_eq!(judged(kind::IN, 0, 512, 0), Err(Status::IoError));
        assert_eq!(judged(kind::IN, 0, 512, 512), Err(Status::IoError));
        assert_eq!(judged(kind::OUT, 0, 0, 512), Err(Status::IoError));
        assert_eq!(judged(kind::OUT, 0, 512, 512), Err(Status::IoError));
        assert_eq!(judged(kind::DISCARD, 0, 0, 16), Err(Status::IoError));
        assert_eq!(judged(kind::WRITE_ZEROES, 0, 16, 1), Err(Status::IoError));
    }

    #[test]
    fn a_serial_number_needs_its_room() {
        assert_eq!(judged(kind::GET_ID, 0, 0, 19), Err(Status::IoError));
        assert_eq!(judged(kind::GET_ID, 0, 0, 20), Ok(Request::Serial));
    }

    #[test]
    fn what_was_not_agreed_on_is_not_supported() {
        let nothing = Rules {
            features: 0,
            ..RULES
        };
        for kind in [kind::FLUSH, kind::DISCARD, kind::WRITE_ZEROES] {
            let header = Header { kind, sector: 0 };
            assert_eq!(judge(header, 16, 0, &nothing), Err(Status::Unsupported));
            assert!(judge(header, 16, 0, &RULES).is_ok());
        }
        // SCSI commands, lifetime, secure erase, zoned storage, and what does not exist.
        for kind in [2, 3, 5, 10, 14, 15, 26, u32::MAX] {
            assert_eq!(judged(kind, 0, 16, 20), Err(Status::Unsupported));
        }
    }

    #[test]
    fn nothing_is_written_to_what_is_read_only() {
        let judged = |kind| judge(Header { kind, sector: 0 }, 16, 0, &READ_ONLY);
        let write = Header {
            kind: kind::OUT,
            sector: 0,
        };
        assert_eq!(judge(write, 512, 0, &READ_ONLY), Err(Status::IoError));
        assert_eq!(judged(kind::DISCARD), Err(Status::Unsupported));
        assert_eq!(judged(kind::WRITE_ZEROES), Err(Status::Unsupported));
    }

    #[test]
    fn ranges_are_whole_and_not_too_many() {
        for length in [0, 15, 17, 33 * 16] {
            assert_eq!(judged(kind::DISCARD, 0, length, 0), Err(Status::IoError));
        }
        assert!(judged(kind::DISCARD, 0, 32 * 16, 0).is_ok());
        assert_eq!(judged(kind::WRITE_ZEROES, 0, 32, 0), Err(Status::IoError));
    }

    #[test]
    fn a_range_is_within_the_disk_and_no_longer_than_is_said() {
        let bytes = [entry(1, 2, 0), entry(99, 1, 0)].concat();
        let found = ranges(&bytes, Clear::Discard, &RULES).unwrap();
        let places: Vec<_> = found
            .iter()
            .map(|range| (range.at, range.length, range.unmap))
            .collect();
        assert_eq!(places, [(512, 1024, false), (99 * 512, 512, false)]);
        for (sector, count) in [(100, 1), (99, 2), (u64::MAX, 1), (0, u32::MAX)] {
            let bytes = [entry(0, 1, 0), entry(sector, count, 0)].concat();
            let found = ranges(&bytes, Clear::Discard, &RULES);
            assert_eq!(found, Err(Status::IoError));
        }
        let vast = Rules {
            sectors: 1 << 40,
            ..RULES
        };
        for (clear, most) in [
            (Clear::Discard, DISCARD_SECTORS),
            (Clear::Zero, ZERO_SECTORS),
        ] {
            assert!(ranges(&entry(0, most, 0), clear, &vast).is_ok());
            let found = ranges(&entry(0, most + 1, 0), clear, &vast);
            assert_eq!(found, Err(Status::IoError));
        }
    }

    #[test]
    fn a_flag_without_meaning_is_not_supported() {
        for (clear, flags) in [
            (Clear::Discard, UNMAP),
            (Clear::Discard, 2),
            (Clear::Zero, 2),
            (Clear::Zero, 1 << 31),
        ] {
            let found = ranges(&entry(0, 1, flags), clear, &RULES);
            assert_eq!(found, Err(Status::Unsupported));
        }
        let found = ranges(&entry(0, 1, UNMAP), Clear::Zero, &RULES).unwrap();
        assert!(found[0].unmap);
    }

    proptest! {
        #[test]
        fn a_header_survives_the_wire(kind: u32, sector: u64) {
            let header = Header { kind, sector };
            prop_assert_eq!(Header::parse(header.encode()), header);
        }

        #[test]
        fn whatever_is_carried_out_is_within_the_disk(
            kind in prop_oneof![0..16_u32, any::<u32>()],
            sector in prop_oneof![0..120_u64, any::<u64>()],
            readable in prop_oneof![(0..120_usize).prop_map(|n| n * 512), 0..600_usize],
            writable in prop_oneof![(0..120_usize).prop_map(|n| n * 512), 0..600_usize],
            read_only: bool,
        ) {
            let rules = if read_only { READ_ONLY } else { RULES };
            let place = |at: u64, length: usize| at + length as u64 <= 51_200;
            match judge(Header { kind, sector }, readable, writable, &rules) {
                Ok(Request::Read { at }) => prop_assert!(place(at, writable)),
                Ok(Request::Write { at }) => prop_assert!(place(at, readable) && !read_only),
                Ok(Request::Clear(_)) => prop_assert!(!read_only),
                _ => {}
            }
        }

        #[test]
        fn arbitrary_ranges_are_within_the_disk(
            bytes in proptest::collection::vec(any::<u8>(), 0..128),
            wide: bool,
        ) {
            for clear in [Clear::Discard, Clear::Zero] {
                let sectors = if wide { u64::MAX / 1024 } else { 1 << 33 };
                let rules = Rules { sectors, ..RULES };
                for range in ranges(&bytes, clear, &rules).unwrap_or_default() {
                    prop_assert!(range.at + range.length <= sectors * 512);
                }
            }
        }
    }
}
