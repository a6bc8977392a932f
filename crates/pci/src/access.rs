//! Partial accesses are turned into whole ones here, and only here.
//!
//! A register block is a set of [`Field`]s. An access of any width at any offset is cut into the
//! fields that it touches; a field that is touched in part is read, changed and written whole.

use std::ops::Range;

/// One register of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    /// Where it begins in its block.
    pub(crate) offset: u64,
    /// Its width in bytes: 1, 2, 4 or 8.
    pub(crate) width: u8,
}

/// A block of registers, each known by its offset.
pub(crate) trait Registers {
    /// The value of the field at exactly this offset.
    fn get(&mut self, offset: u64) -> u64;
    /// Writes the whole field at exactly this offset.
    fn set(&mut self, offset: u64, value: u64);
}

/// Reads `data.len()` bytes at `offset`; bytes that belong to no field are zero.
pub(crate) fn read(
    block: &mut impl Registers,
    fields: impl Iterator<Item = Field>,
    offset: u64,
    data: &mut [u8],
) {
    data.fill(0);
    for field in fields {
        if let Some((inside, outside)) = overlap(field, offset, data.len()) {
            let value = block.get(field.offset).to_le_bytes();
            copy(value.get(inside), data.get_mut(outside));
        }
    }
}

/// Writes `data` at `offset`; bytes that belong to no field are ignored.
pub(crate) fn write(
    block: &mut impl Registers,
    fields: impl Iterator<Item = Field>,
    offset: u64,
    data: &[u8],
) {
    for field in fields {
        if let Some((inside, outside)) = overlap(field, offset, data.len()) {
            let whole = inside.len() == usize::from(field.width);
            let old = if whole { 0 } else { block.get(field.offset) };
            let mut value = old.to_le_bytes();
            copy(data.get(outside), value.get_mut(inside));
            block.set(field.offset, u64::from_le_bytes(value));
        }
    }
}

/// The fields of a block of 32-bit registers of `size` bytes that an access touches.
pub(crate) fn dwords(size: u64, offset: u64, len: usize) -> impl Iterator<Item = Field> + use<> {
    let end = offset.saturating_add(len as u64).min(size);
    (offset & !3..end)
        .step_by(4)
        .map(|offset| Field { offset, width: 4 })
}

/// Copies as many bytes as both sides have.
pub(crate) fn copy(from: Option<&[u8]>, to: Option<&mut [u8]>) {
    if let (Some(from), Some(to)) = (from, to) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    }
}

/// The bytes that an access shares with a field: their place in the field and in the access.
fn overlap(field: Field, offset: u64, len: usize) -> Option<(Range<usize>, Range<usize>)> {
    let begin = field.offset.max(offset);
    let end = field
        .offset
        .saturating_add(field.width.into())
        .min(offset.saturating_add(len as u64));
    if begin >= end {
        return None;
    }
    let within = |base: u64| -> Option<Range<usize>> {
        let from = usize::try_from(begin.checked_sub(base)?).ok()?;
        let to = usize::try_from(end.checked_sub(base)?).ok()?;
        Some(from..to)
    };
    Some((within(field.offset)?, within(offset)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of two fields: 2 bytes at 0, 8 bytes at 4. Bytes 2 and 3 are a gap.
    #[derive(Default)]
    struct Block(u64, u64);

    impl Registers for Block {
        fn get(&mut self, offset: u64) -> u64 {
            if offset == 0 { self.0 } else { self.1 }
        }
        fn set(&mut self, offset: u64, value: u64) {
            *(if offset == 0 {
                &mut self.0
            } else {
                &mut self.1
            }) = value;
        }
    }

    const FIELDS: [Field; 2] = [
        Field {
            offset: 0,
            width: 2,
        },
        Field {
            offset: 4,
            width: 8,
        },
    ];

    #[test]
    fn a_partial_write_keeps_the_rest_of_the_field() {
        let mut block = Block(0x1234, 0x1111_2222_3333_4444);
        write(&mut block, FIELDS.into_iter(), 1, &[0xab]);
        assert_eq!(block.0, 0xab34);
        write(&mut block, FIELDS.into_iter(), 8, &[1, 2, 3, 4]);
        assert_eq!(block.1, 0x0403_0201_3333_4444);
    }

    #[test]
    fn an_access_across_fields_and_a_gap_touches_each_once() {
        let mut block = Block(0x1234, 0x1111_2222_3333_4444);
        let mut data = [0xff; 8];
        read(&mut block, FIELDS.into_iter(), 0, &mut data);
        assert_eq!(data, [0x34, 0x12, 0, 0, 0x44, 0x44, 0x33, 0x33]);
        write(&mut block, FIELDS.into_iter(), 0, &[1, 2, 9, 9, 5, 6, 7, 8]);
        assert_eq!((block.0, block.1), (0x0201, 0x1111_2222_0807_0605));
    }

    #[test]
    fn an_access_at_the_end_of_the_address_space_reads_zero() {
        let mut data = [0xff; 8];
        read(
            &mut Block::default(),
            FIELDS.into_iter(),
            u64::MAX,
            &mut data,
        );
        assert_eq!(data, [0; 8]);
    }

    #[test]
    fn dwords_are_those_that_the_access_touches() {
        let offsets = |offset, len| {
            dwords(16, offset, len)
                .map(|f| f.offset)
                .collect::<Vec<_>>()
        };
        assert_eq!(offsets(3, 2), [0, 4]);
        assert_eq!(offsets(8, 100), [8, 12]);
        assert_eq!(offsets(16, 4), [0u64; 0]);
        assert_eq!(offsets(u64::MAX, 4), [0u64; 0]);
    }
}
