//! A GUID partition table around the layers of an image (UEFI 2.10, section 5.3): what comes before
//! them on a disk and what comes behind.
//!
//! Nothing in it is random, so that the same layers are always the same disk.

use wire::block::Config;

/// A table that cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// None, or more than a block device can be handed.
    #[error("a disk of {0} layers cannot be made; an image has 1 to {MOST}")]
    Count(usize),
    /// Nothing, or no multiple of a page.
    #[error("layer {index} has {sectors} sectors, which is no multiple of {unit}", unit = Config::ALIGNMENT)]
    Size {
        /// Which.
        index: usize,
        /// How long it is.
        sectors: u64,
    },
    /// The disk would be longer than 2^63 bytes.
    #[error("the layers are together longer than a disk can be")]
    Capacity,
}

/// The most partitions.
const MOST: usize = Config::MAX_EXTENTS - 2;

/// Bytes of a sector, as a length.
const SECTOR: usize = 512;

/// Entries of a table, as every tool makes them, and bytes of each.
const ENTRIES: u32 = 128;
const ENTRY: u32 = 128;

/// Bytes of a header that mean something.
const HEADER: u32 = 92;

/// What the whole list of entries takes.
const LIST: usize = (ENTRIES * ENTRY) as usize;

/// Bytes of the part before the layers, and of the one behind them: the list, two sectors or one, and
/// what fills the last page up.
const PART: usize = (LIST + 2 * SECTOR).next_multiple_of(4096);

/// The same in sectors.
const PART_SECTORS: u64 = (PART / SECTOR) as u64;

/// Linux filesystem data: 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it is stored.
const LINUX: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// A partition table, in two parts of whole pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What is before the first layer: the protective MBR, the header and the entries.
    pub head: Vec<u8>,
    /// What is behind the last one: the entries and the header once more.
    pub tail: Vec<u8>,
}

/// A table of partitions that follow each other without a gap, called `layer0`, `layer1` and so on,
/// of so many sectors of 512 bytes.
///
/// # Errors
/// If there are too many or too few, or one is no multiple of a page.
pub fn table(layers: &[u64]) -> Result<Table, Error> {
    let sectors = disk(layers)?;
    let entries = entries(layers);
    let last = sectors.saturating_sub(1);
    let header = |own, other, list| {
        let geometry = Geometry {
            own,
            other,
            list,
            last,
        };
        header(&geometry, &entries)
    };
    // In front: MBR, header, entries; behind: entries, header, to the very end.
    let list = last.saturating_sub((LIST / SECTOR) as u64);
    let mut head = [&mbr(last)[..], &header(1, last, 2), &entries].concat();
    head.resize(PART, 0);
    let mut tail = vec![0; PART - LIST - SECTOR];
    tail.extend(&entries);
    tail.extend(header(last, 1, list));
    Ok(Table { head, tail })
}

/// Sectors of the whole disk.
fn disk(layers: &[u64]) -> Result<u64, Error> {
    if !(1..=MOST).contains(&layers.len()) {
        return Err(Error::Count(layers.len()));
    }
    let mut sum = 2 * PART_SECTORS;
    for (index, &sectors) in layers.iter().enumerate() {
        if sectors == 0 || !sectors.is_multiple_of(Config::ALIGNMENT) {
            return Err(Error::Size { index, sectors });
        }
        sum = sum.checked_add(sectors).ok_or(Error::Capacity)?;
    }
    if sum > i64::MAX.cast_unsigned() / Config::SECTOR {
        return Err(Error::Capacity);
    }
    Ok(sum)
}

/// The protective MBR (section 5.2.3): one partition of everything, of a type that old tools leave
/// alone.
fn mbr(last: u64) -> [u8; SECTOR] {
    let mut record = [0; SECTOR];
    let length = u32::try_from(last).unwrap_or(u32::MAX);
    let partition = [
        // Not for booting; from cylinder 0, head 0, sector 2 on.
        &[0, 0, 2, 0][..],
        // GPT protective; to where cylinders cannot count.
        &[0xee, 0xff, 0xff, 0xff],
        &1_u32.to_le_bytes(),
        &length.to_le_bytes(),
    ];
    put(&mut record, 446, &partition.concat());
    put(&mut record, 510, &[0x55, 0xaa]);
    record
}

/// Where things are, in sectors.
struct Geometry {
    /// The header itself, and the other one.
    own: u64,
    other: u64,
    /// Its list of entries.
    list: u64,
    /// The last one of the disk.
    last: u64,
}

/// A header (section 5.3.2).
fn header(geometry: &Geometry, entries: &[u8]) -> [u8; SECTOR] {
    let last_usable = geometry.last.saturating_sub(PART_SECTORS);
    let fields = [
        &b"EFI PART"[..],
        // Revision 1.0, the header's size, its checksum (below), four reserved bytes.
        &0x0001_0000_u32.to_le_bytes(),
        &HEADER.to_le_bytes(),
        &[0; 8],
        &geometry.own.to_le_bytes(),
        &geometry.other.to_le_bytes(),
        &PART_SECTORS.to_le_bytes(),
        &last_usable.to_le_bytes(),
        &guid(entries, u16::MAX),
        &geometry.list.to_le_bytes(),
        &ENTRIES.to_le_bytes(),
        &ENTRY.to_le_bytes(),
        &crc32fast::hash(entries).to_le_bytes(),
    ];
    let bytes = fields.concat();
    let mut header = [0; SECTOR];
    put(&mut header, 0, &bytes);
    put(&mut header, 16, &crc32fast::hash(&bytes).to_le_bytes());
    header
}

/// The list of entries (section 5.3.3).
fn entries(layers: &[u64]) -> Vec<u8> {
    let sizes: Vec<u8> = layers.iter().flat_map(|size| size.to_le_bytes()).collect();
    let mut list = Vec::with_capacity(LIST);
    let mut first = PART_SECTORS;
    for (index, sectors) in (0_u16..).zip(layers) {
        let next = first.saturating_add(*sectors);
        let name = format!("layer{index}");
        let mut entry = [
            &LINUX[..],
            &guid(&sizes, index),
            &first.to_le_bytes(),
            &next.saturating_sub(1).to_le_bytes(),
            // No attributes.
            &[0; 8],
            &name
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<_>>(),
        ]
        .concat();
        entry.resize(ENTRY as usize, 0);
        list.extend(entry);
        first = next;
    }
    list.resize(LIST, 0);
    list
}

/// A GUID that says nothing but what it is made of (RFC 9562, version 8).
fn guid(of: &[u8], index: u16) -> [u8; 16] {
    let [a, b, c, d] = crc32fast::hash(of).to_le_bytes();
    let [e, f] = index.to_le_bytes();
    // The version is in the upper half of the seventh byte as it is written, which is stored as the
    // eighth; the variant in that of the ninth.
    [
        a, b, c, d, e, f, b'c', 0x80, 0x80, b'r', b'u', b'm', b'b', b'l', b'e', 0,
    ]
}

/// Writes `bytes` at a place where there is room for them.
fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in to.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]
mod tests {
    use std::fs::File;
    use std::io::{ErrorKind, Write};
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
        let mut value = [0; 8];
        value[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(value)
    }

    /// The first and last sector of each partition, and its name, by the header in this sector, which
    /// is checked.
    fn parse(disk: &impl Fn(u64, usize) -> Vec<u8>, at: u64) -> Vec<(u64, u64, String)> {
        let mut header = disk(at, 512);
        assert_eq!(header[..8], *b"EFI PART");
        assert_eq!(number(&header, 24, 8), at);
        let checksum = number(&header, 16, 4);
        header[16..20].fill(0);
        assert_eq!(u64::from(crc32fast::hash(&header[..92])), checksum);
        assert!(header[92..].iter().all(|byte| *byte == 0));
        let (count, size) = (number(&header, 80, 4), number(&header, 84, 4));
        let list = disk(number(&header, 72, 8), (count * size) as usize);
        assert_eq!(u64::from(crc32fast::hash(&list)), number(&header, 88, 4));
        let (first, last) = (number(&header, 40, 8), number(&header, 48, 8));
        let used = list.chunks(size as usize).filter(|entry| entry[0] != 0);
        let parsed = used.map(|entry| {
            assert_eq!(entry[..16], LINUX);
            let (from, to) = (number(entry, 32, 8), number(entry, 40, 8));
            assert!(first <= from && from <= to && to <= last);
            let units: Vec<u16> = entry[56..]
                .chunks(2)
                .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
                .take_while(|unit| *unit != 0)
                .collect();
            (from, to, String::from_utf16(&units).unwrap())
        });
        parsed.collect()
    }

    /// Reads bytes of a disk whose layers are of zeros.
    fn reader(layers: &[u64]) -> (u64, impl Fn(u64, usize) -> Vec<u8>) {
        let Table { head, tail } = table(layers).unwrap();
        assert!(head.len().is_multiple_of(4096) && tail.len().is_multiple_of(4096));
        let behind = 40 + layers.iter().sum::<u64>();
        let sectors = behind + tail.len() as u64 / 512;
        let read = move |at: u64, length: usize| match at.checked_sub(behind) {
            Some(at) => tail[at as usize * 512..][..length].to_vec(),
            None => head[at as usize * 512..][..length].to_vec(),
        };
        (sectors, read)
    }

    #[test]
    fn both_headers_name_the_same_partitions_in_a_row() {
        for layers in [
            vec![8],
            vec![8, 800, 16],
            (1..=127).map(|n| n * 8).collect(),
        ] {
            let (sectors, read) = reader(&layers);
            let partitions = parse(&read, 1);
            assert_eq!(parse(&read, sectors - 1), partitions);
            assert_eq!(number(&read(1, 512), 32, 8), sectors - 1);
            assert_eq!(number(&read(sectors - 1, 512), 32, 8), 1);
            let mut next = 40;
            for (index, (from, to, name)) in partitions.iter().enumerate() {
                assert_eq!((*from, *to + 1), (next, next + layers[index]));
                assert_eq!(*name, format!("layer{index}"));
                next = to + 1;
            }
            assert_eq!(partitions.len(), layers.len());
        }
    }

    #[test]
    fn no_two_guids_of_a_disk_are_the_same_and_other_disks_have_others() {
        let guids = |layers: &[u64]| {
            let (_, read) = reader(layers);
            let mut all = vec![read(1, 512)[56..72].to_vec()];
            let list = read(2, LIST);
            let entries = list.chunks(ENTRY as usize).take(layers.len());
            all.extend(entries.map(|entry| entry[16..32].to_vec()));
            all
        };
        let mut all = [guids(&[8, 8, 16]), guids(&[8, 8, 24])].concat();
        assert_eq!(guids(&[8, 8, 16])[..], all[..4]);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn layers_that_cannot_be_partitions_are_refused_with_the_reason() {
        assert_eq!(table(&[]), Err(Error::Count(0)));
        assert_eq!(table(&[8; 128]), Err(Error::Count(128)));
        let size = |index, sectors| Err(Error::Size { index, sectors });
        assert_eq!(table(&[8, 0]), size(1, 0));
        assert_eq!(table(&[12]), size(0, 12));
        assert_eq!(table(&[u64::MAX - 7, 8]), Err(Error::Capacity));
        assert_eq!(table(&[1 << 54]), Err(Error::Capacity));
        let message = table(&[12]).unwrap_err().to_string();
        assert!(message.contains("layer 0 has 12 sectors"), "{message}");
    }

    /// What a tool says of the disk, or nothing if it is not there, which is said.
    fn ask(tool: &str, arguments: &[&str], disk: &Path) -> Option<String> {
        let output = Command::new(tool).args(arguments).arg(disk).output();
        match output {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Shown also where output is captured.
                let line = format!("NOT TRIED: {tool} is not here to look at a partition table\n");
                let _ = std::io::stderr().write_all(line.as_bytes());
                None
            }
            output => {
                let output = output.unwrap();
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                assert!(output.status.success(), "{tool}: {text}");
                Some(text)
            }
        }
    }

    #[test]
    fn the_tools_of_others_find_nothing_wrong() {
        for layers in [vec![8], vec![2048, 8, 65_536], vec![16; 127]] {
            let Table { head, tail } = table(&layers).unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            let disk: &File = file.as_file();
            disk.write_all_at(&head, 0).unwrap();
            let behind = head.len() as u64 + layers.iter().sum::<u64>() * 512;
            disk.write_all_at(&tail, behind).unwrap();
            if let Some(text) = ask("sgdisk", &["-v"], file.path()) {
                assert!(text.contains("No problems found"), "{text}");
            }
            if let Some(text) = ask("sfdisk", &["--verify"], file.path()) {
                assert!(text.contains("No errors detected"), "{text}");
            }
            let columns = ["--noheadings", "--raw", "--output", "START,SECTORS,NAME"];
            if let Some(text) = ask("partx", &columns, file.path()) {
                let mut start = 40;
                let lines = layers.iter().enumerate().map(|(index, sectors)| {
                    let line = format!("{start} {sectors} layer{index}");
                    start += sectors;
                    line
                });
                assert!(text.lines().eq(lines), "{text}");
            }
        }
    }
}
