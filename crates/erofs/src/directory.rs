//! Directories: each block has entries of 12 bytes and then their names, in the order of the names'
//! bytes over all blocks, so that the kernel finds one by halving.

use crate::format::{BLOCK, Fields};
use crate::{Error, Result};

/// Bytes of an entry: an inode's number, where the name begins, what it is, and a byte of nothing.
const ENTRY: usize = 12;

/// The longest name.
pub(crate) const NAME: usize = 255;

/// The inode's number, its [`entry_type`](crate::format::entry_type), its name.
pub(crate) type RawEntry<'a> = (u64, u8, &'a [u8]);

/// Bytes that entries with names of these lengths take, all blocks but the last being full.
pub(crate) fn size(lengths: impl Iterator<Item = usize>) -> u64 {
    let (mut blocks, mut used) = (0_u64, 0_usize);
    for length in lengths {
        let more = length.saturating_add(ENTRY);
        used = match used.saturating_add(more) {
            sum if sum > BLOCK => {
                blocks = blocks.saturating_add(1);
                more
            }
            sum => sum,
        };
    }
    blocks
        .saturating_mul(BLOCK as u64)
        .saturating_add(used as u64)
}

/// The contents of a directory with these entries, which are in order.
pub(crate) fn encode(entries: &[RawEntry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0_usize;
        let fits = rest.iter().take_while(|(.., name)| {
            used = used.saturating_add(ENTRY).saturating_add(name.len());
            used <= BLOCK
        });
        // One always fits, as names are short.
        let count = fits.count().max(1);
        let (block, behind) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        encode_block(&mut bytes, block);
        rest = behind;
        if !rest.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
    }
    bytes
}

fn encode_block(bytes: &mut Vec<u8>, entries: &[RawEntry<'_>]) {
    let mut at = entries.len().saturating_mul(ENTRY);
    for (number, kind, name) in entries {
        bytes.extend(number.to_le_bytes());
        bytes.extend(u16::try_from(at).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend([*kind, 0]);
        at = at.saturating_add(name.len());
    }
    for (.., name) in entries {
        bytes.extend(*name);
    }
}

/// The entries of one block, of which `block` has what belongs to the directory. Their order is not
/// looked at.
pub(crate) fn decode(block: &[u8]) -> Result<Vec<(u64, Vec<u8>)>> {
    const WRONG: Error = Error::Damaged("a directory's entries are not where they should be");
    let first = Fields(block.get(8..).ok_or(WRONG)?).u16()?;
    let heads = block.get(..first.into()).ok_or(WRONG)?;
    let (heads, odd) = heads.as_chunks::<ENTRY>();
    if heads.is_empty() || !odd.is_empty() {
        return Err(WRONG);
    }
    let mut parsed = Vec::with_capacity(heads.len());
    for head in heads {
        let fields = &mut Fields(head);
        parsed.push((fields.u64()?, usize::from(fields.u16()?)));
    }
    let ends = parsed.iter().skip(1).map(|(_, at)| *at);
    let ends: Vec<usize> = ends.chain([block.len()]).collect();
    let mut entries = Vec::with_capacity(parsed.len());
    for ((number, at), end) in parsed.into_iter().zip(ends) {
        let name = block.get(at..end).filter(|_| at >= first.into());
        entries.push((number, checked(name.ok_or(WRONG)?)?.to_vec()));
    }
    Ok(entries)
}

/// A name without the padding behind it, if it can be one.
fn checked(name: &[u8]) -> Result<&[u8]> {
    let end = name.iter().position(|byte| *byte == 0);
    let name = name.get(..end.unwrap_or(name.len())).unwrap_or_default();
    if name.is_empty() || name.len() > NAME || name.contains(&b'/') {
        return Err(Error::Damaged("a directory has a name that is none"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_are_read_as_they_were_written(
            names in proptest::collection::btree_set("[a-z]{1,255}", 1..80),
        ) {
            let entries: Vec<_> = (7..).zip(&names)
                .map(|(number, name)| (number, 1, name.as_bytes()))
                .collect();
            let bytes = encode(&entries);
            let lengths = names.iter().map(String::len);
            prop_assert_eq!(bytes.len() as u64, size(lengths));
            let read: Vec<_> = bytes.chunks(BLOCK).flat_map(|block| decode(block).unwrap()).collect();
            let written: Vec<_> = entries.iter().map(|(n, _, name)| (*n, name.to_vec())).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn arbitrary_blocks_never_panic(block in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&block);
        }
    }
}
