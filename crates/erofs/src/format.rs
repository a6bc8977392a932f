//! Superblock and inodes as they are in the file (`erofs.rst`, "On-disk details"). Numbers are
//! little-endian.

use crate::attributes::WHITEOUT;
use crate::{Error, Kind, Result, Special, Time, checksum};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
/// The same, where sizes are 64 bits wide.
pub(crate) const BLOCK_64: u64 = 4096;
/// Where the superblock is.
pub(crate) const SUPERBLOCK: usize = 1024;
/// Bytes of an extended inode.
pub(crate) const INODE: usize = 64;
/// Inodes begin at multiples of this, and are numbered by it.
pub(crate) const SLOT: usize = 32;

const MAGIC: u32 = 0xe0f5_e1e2;
/// log2 of [`BLOCK`].
const BLOCK_BITS: u8 = 12;
/// Compatible features: the checksum is set; inodes have times of their own.
const CHECKSUM: u32 = 1;
const MTIME: u32 = 2;

/// What of a superblock differs from image to image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// The root's number.
    pub(crate) root: u16,
    /// How many inodes there are.
    pub(crate) inodes: u64,
    /// How many blocks there are.
    pub(crate) blocks: u32,
    /// The block from which inodes are numbered.
    pub(crate) metadata: u32,
}

impl Superblock {
    /// The first block, whole.
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut block = vec![0; SUPERBLOCK];
        block.extend(MAGIC.to_le_bytes());
        block.extend([0; 4]);
        block.extend((CHECKSUM | MTIME).to_le_bytes());
        block.extend([BLOCK_BITS, 0]);
        block.extend(self.root.to_le_bytes());
        block.extend(self.inodes.to_le_bytes());
        // The time of the build, for inodes that have none of their own.
        block.extend([0; 12]);
        block.extend(self.blocks.to_le_bytes());
        block.extend(self.metadata.to_le_bytes());
        // No shared attributes, no UUID, no name, no incompatible feature.
        block.resize(BLOCK, 0);
        checksum::seal(&mut block);
        block
    }

    /// From the first block.
    pub(crate) fn decode(block: &[u8]) -> Result<Self> {
        let bytes = block.get(SUPERBLOCK..).unwrap_or_default();
        let fields = &mut Fields(bytes);
        if fields.u32()? != MAGIC {
            return Err(Error::Damaged("it does not begin as EROFS does"));
        }
        let sum = fields.u32()?;
        let features = fields.u32()?;
        let bits = fields.u8()?;
        fields.skip(1)?;
        let superblock = Self {
            root: fields.u16()?,
            inodes: fields.u64()?,
            blocks: fields.skip(12).and_then(|()| fields.u32())?,
            metadata: fields.u32()?,
        };
        fields.skip(4 + 16 + 16)?;
        if fields.u32()? != 0 {
            return Err(Error::Unsupported("features that change the format"));
        }
        if bits != BLOCK_BITS {
            return Err(Error::Unsupported("blocks of another size than 4096 bytes"));
        }
        if features & CHECKSUM != 0 && sum != checksum::of(block) {
            return Err(Error::Damaged("the superblock's checksum is wrong"));
        }
        Ok(superblock)
    }
}

/// Where an inode's contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// All in blocks of their own.
    Plain,
    /// What does not fill a block follows the inode and its attributes.
    Inline,
}

/// An inode without its extended attributes and contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawInode {
    pub(crate) layout: Layout,
    /// Bytes of extended attributes.
    pub(crate) xattrs: usize,
    pub(crate) kind: Kind,
    pub(crate) permissions: u16,
    pub(crate) size: u64,
    /// The first block of contents.
    pub(crate) block: u32,
    /// A running number, for programs that know no larger ones.
    pub(crate) number: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) links: u32,
}

/// The bits of `st_mode` that say what an inode is.
const FORMAT: u16 = 0o170_000;

/// An extended inode's format field: bit 0 says that it is one, from bit 1 on is the layout.
const EXTENDED_PLAIN: u16 = 1;
const EXTENDED_INLINE: u16 = 1 | 2 << 1;

impl RawInode {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let format = match self.layout {
            Layout::Plain => EXTENDED_PLAIN,
            Layout::Inline => EXTENDED_INLINE,
        };
        let place = match self.kind {
            Kind::Special(special) => encode_device(special),
            _ => self.block,
        };
        let mut bytes = Vec::with_capacity(INODE);
        bytes.extend(format.to_le_bytes());
        bytes.extend(encode_xattr_size(self.xattrs)?.to_le_bytes());
        bytes.extend((format_bits(self.kind) | self.permissions & !FORMAT).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(place.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.uid.to_le_bytes());
        bytes.extend(self.gid.to_le_bytes());
        bytes.extend(self.mtime.seconds.to_le_bytes());
        bytes.extend(self.mtime.nanos.to_le_bytes());
        bytes.extend(self.links.to_le_bytes());
        bytes.resize(INODE, 0);
        Ok(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let fields = &mut Fields(bytes);
        let layout = match fields.u16()? {
            EXTENDED_PLAIN => Layout::Plain,
            EXTENDED_INLINE => Layout::Inline,
            _ => return Err(Error::Unsupported("short, compressed or chunked inodes")),
        };
        let xattrs = decode_xattr_size(fields.u16()?);
        let mode = fields.u16()?;
        fields.skip(2)?;
        let size = fields.u64()?;
        let place = fields.u32()?;
        Ok(Self {
            layout,
            xattrs,
            kind: decode_kind(mode, place)?,
            permissions: mode & !FORMAT,
            size,
            block: place,
            number: fields.u32()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
            mtime: Time {
                seconds: fields.u64()?.cast_signed(),
                nanos: fields.u32()?,
            },
            links: fields.u32()?,
        })
    }
}

/// Bytes of the head of extended attributes.
pub(crate) const XATTR_HEAD: usize = 12;

/// The head counts as one, each four bytes after it as one more.
fn encode_xattr_size(size: usize) -> Result<u16> {
    let count = match size.checked_sub(XATTR_HEAD) {
        None => 0,
        Some(entries) => entries.div_ceil(4).saturating_add(1),
    };
    u16::try_from(count).map_err(|_| Error::Damaged("more attributes than the format can say"))
}

fn decode_xattr_size(count: u16) -> usize {
    match usize::from(count).checked_sub(1) {
        None => 0,
        Some(words) => words.saturating_mul(4).saturating_add(XATTR_HEAD),
    }
}

const fn format_bits(kind: Kind) -> u16 {
    match kind {
        Kind::Special(Special::Fifo) => 0o010_000,
        Kind::Special(Special::Character { .. }) => 0o020_000,
        Kind::Directory => 0o040_000,
        Kind::Special(Special::Block { .. }) => 0o060_000,
        Kind::File => 0o100_000,
        Kind::Symlink => 0o120_000,
        Kind::Special(Special::Socket) => 0o140_000,
    }
}

fn decode_kind(mode: u16, place: u32) -> Result<Kind> {
    let (major, minor) = decode_device(place);
    Ok(match mode & FORMAT {
        0o010_000 => Kind::Special(Special::Fifo),
        0o020_000 => Kind::Special(Special::Character { major, minor }),
        0o040_000 => Kind::Directory,
        0o060_000 => Kind::Special(Special::Block { major, minor }),
        0o100_000 => Kind::File,
        0o120_000 => Kind::Symlink,
        0o140_000 => Kind::Special(Special::Socket),
        _ => return Err(Error::Damaged("an inode is of no known kind")),
    })
}

/// Major numbers have 12 bits.
const MAJORS: u32 = 1 << 12;
/// Minor numbers have 20 bits.
const MINORS: u32 = 1 << 20;

/// Whether the numbers fit.
pub(crate) const fn has_room(special: Special) -> bool {
    match special {
        Special::Character { major, minor } | Special::Block { major, minor } => {
            major < MAJORS && minor < MINORS
        }
        Special::Fifo | Special::Socket => true,
    }
}

/// The lower 8 bits of the minor number, the major number, the other bits of the minor number
/// (`new_encode_dev` of `linux/kdev_t.h`).
const fn encode_device(special: Special) -> u32 {
    match special {
        Special::Character { major, minor } | Special::Block { major, minor } => {
            (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
        }
        Special::Fifo | Special::Socket => 0,
    }
}

const fn decode_device(number: u32) -> (u32, u32) {
    let major = (number & 0xf_ff00) >> 8;
    let minor = (number & 0xff) | ((number >> 12) & 0xf_ff00);
    (major, minor)
}

/// The number for a kind in a directory's entry (`FT_*` of `linux/fs_types.h`).
pub(crate) const fn entry_type(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Directory => 2,
        Kind::Special(Special::Character { .. }) => 3,
        Kind::Special(Special::Block { .. }) => 4,
        Kind::Special(Special::Fifo) => 5,
        Kind::Special(Special::Socket) => 6,
        Kind::Symlink => 7,
    }
}

const _: () = assert!(encode_device(WHITEOUT) == 0);

/// Numbers from a buffer, one after the other.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk().ok_or(ENDS)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn skip(&mut self, count: usize) -> Result<()> {
        self.0 = self.0.get(count..).ok_or(ENDS)?;
        Ok(())
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.take().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

const ENDS: Error = Error::Damaged("a structure is cut off");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_and_those_without_room_are_known() {
        for (major, minor) in [(0, 0), (1, 3), (4095, 1_048_575), (259, 256), (8, 255)] {
            let device = Special::Block { major, minor };
            assert!(has_room(device));
            assert_eq!(decode_device(encode_device(device)), (major, minor));
        }
        assert!(!has_room(Special::Block {
            major: 4096,
            minor: 0
        }));
        assert!(!has_room(Special::Character {
            major: 0,
            minor: 1 << 20
        }));
    }

    #[test]
    fn a_superblock_is_read_as_it_was_written_and_no_bit_may_change() {
        let superblock = Superblock {
            root: 2,
            inodes: 3,
            blocks: 4,
            metadata: 1,
        };
        let block = superblock.encode();
        assert_eq!(block.len(), BLOCK);
        assert_eq!(Superblock::decode(&block).unwrap(), superblock);
        // Bit 0 of byte 8 says that there is a checksum.
        let bits = (SUPERBLOCK * 8..1152 * 8).chain((1152 * 8..BLOCK * 8).step_by(101));
        for bit in bits.filter(|bit| *bit != 1032 * 8) {
            let mut changed = block.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&changed).is_err(), "bit {bit}");
        }
        for length in 0..SUPERBLOCK + 84 {
            assert!(Superblock::decode(&block[..length]).is_err());
        }
    }
}
