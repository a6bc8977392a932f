//! Trees for tests: made up, written as layers, and read back.

use std::collections::BTreeMap;
use std::io::Cursor;

use erofs::{Attributes, Kind, Layer, ReadAt, Reader, Special, Time, Xattrs};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// What is at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thing {
    pub(crate) attributes: Attributes,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Special(Special),
}

/// By path; the root is the empty one.
pub(crate) type Things = BTreeMap<String, Thing>;

pub(crate) fn put(
    layer: &mut Layer<impl std::io::Write + std::io::Seek>,
    path: &str,
    thing: &Thing,
) {
    let path = path.as_bytes();
    let attributes = thing.attributes.clone();
    let done = match &thing.what {
        What::Directory => layer.directory(path, attributes),
        What::File(bytes) => layer.file(path, attributes, bytes.len() as u64, &mut &bytes[..]),
        What::Symlink(target) => layer.symlink(path, attributes, target),
        What::Special(special) => layer.node(path, attributes, *special),
    };
    done.unwrap();
}

/// A layer of these, in this order.
pub(crate) fn write<'a>(things: impl IntoIterator<Item = (&'a String, &'a Thing)>) -> Vec<u8> {
    let mut image = Cursor::new(Vec::new());
    let mut layer = Layer::new(&mut image);
    for (path, thing) in things {
        put(&mut layer, path, thing);
    }
    let summary = layer.finish().unwrap();
    assert_eq!(summary.size, image.get_ref().len() as u64);
    image.into_inner()
}

/// All that is in an image. It must be no hostile one.
pub(crate) fn read<R: ReadAt>(reader: &Reader<R>) -> Things {
    let mut things = Things::new();
    let mut pending = vec![(String::new(), reader.root())];
    while let Some((path, inode)) = pending.pop() {
        let mut attributes = inode.attributes();
        attributes.xattrs = reader.xattrs(&inode).unwrap();
        let what = match inode.kind() {
            Kind::Directory => {
                let entries: Vec<_> = reader.entries(&inode).map(Result::unwrap).collect();
                assert!(entries.is_sorted_by(|a, b| a.name < b.name));
                for entry in entries {
                    let name = String::from_utf8(entry.name.clone()).unwrap();
                    let child = reader.inode(entry.number).unwrap();
                    assert_eq!(reader.lookup(&inode, &entry.name).unwrap(), Some(child));
                    let slash = if path.is_empty() { "" } else { "/" };
                    pending.push((format!("{path}{slash}{name}"), child));
                }
                What::Directory
            }
            Kind::File => {
                let mut bytes = Vec::new();
                std::io::copy(&mut reader.contents(&inode), &mut bytes).unwrap();
                What::File(bytes)
            }
            Kind::Symlink => What::Symlink(reader.target(&inode).unwrap()),
            Kind::Special(special) => What::Special(special),
        };
        things.insert(path, Thing { attributes, what });
    }
    things
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let name = prop_oneof![
        "user\\.[a-z]{1,20}",
        "trusted\\.[a-z]{1,20}",
        "security\\.[a-z]{1,9}x",
    ];
    let value = prop_oneof![
        9 => vec(any::<u8>(), 0..60),
        1 => vec(any::<u8>(), 3000..9000),
    ];
    let one = (name.prop_map(String::into_bytes), value);
    prop_oneof![3 => Just(Xattrs::new()), 1 => btree_map(one.0, one.1, 1..4)]
}

pub(crate) fn attributes() -> impl Strategy<Value = Attributes> {
    let time = (any::<i64>(), 0..1_000_000_000_u32);
    let numbers = (0..0o10000_u16, any::<u32>(), any::<u32>(), time);
    (numbers, xattrs()).prop_map(|((mode, uid, gid, time), xattrs)| Attributes {
        mode,
        uid,
        gid,
        mtime: Time {
            seconds: time.0,
            nanos: time.1,
        },
        xattrs,
    })
}

fn contents() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        Just(0_usize),
        1_usize..200,
        4000_usize..4200,
        8100_usize..8300,
        Just(4096_usize),
        Just(300_000_usize),
    ];
    (length, any::<u8>()).prop_map(|(length, seed)| {
        // Some have blocks of zeros.
        let byte = |at: usize| {
            if seed < 50 {
                0
            } else {
                (at / 7 % 256).try_into().unwrap_or(0_u8) ^ seed
            }
        };
        (0..length).map(byte).collect()
    })
}

/// Something that is no directory.
pub(crate) fn leaf() -> impl Strategy<Value = What> {
    let device = (0..4096_u32, 1..1_048_576_u32);
    let devices = prop_oneof![
        device
            .clone()
            .prop_map(|(major, minor)| Special::Character { major, minor }),
        device.prop_map(|(major, minor)| Special::Block { major, minor }),
        Just(Special::Fifo),
        Just(Special::Socket),
    ];
    prop_oneof![
        4 => contents().prop_map(What::File),
        1 => "[a-z/.]{1,100}".prop_map(|target| What::Symlink(target.into_bytes())),
        1 => vec(1_u8..=255, 3900..4095).prop_map(What::Symlink),
        1 => devices.prop_map(What::Special),
    ]
}

/// A tree whose every directory has an entry of its own.
pub(crate) fn tree() -> impl Strategy<Value = Things> {
    let directory = "[!-.0-9a-c]{1,3}".prop_filter("a name", |name| name != "." && name != "..");
    let name = prop_oneof![
        "[a-z!+-]{1,12}".prop_filter("a name", |name| name != "." && name != ".."),
        "[a-z]{200,255}",
    ];
    let leaves = vec((vec(directory, 0..4), name, attributes(), leaf()), 0..60);
    (leaves, attributes(), attributes()).prop_map(|(leaves, root, other)| {
        let directory = |attributes| Thing {
            attributes,
            what: What::Directory,
        };
        let mut things = Things::from([(String::new(), directory(root))]);
        'leaves: for (directories, name, attributes, what) in leaves {
            let mut path = String::new();
            for part in directories {
                path = if path.is_empty() {
                    part
                } else {
                    format!("{path}/{part}")
                };
                let there = things.get(&path).map(|thing| &thing.what);
                if there.is_some_and(|what| *what != What::Directory) {
                    continue 'leaves;
                }
                things
                    .entry(path.clone())
                    .or_insert_with(|| directory(other.clone()));
            }
            let slash = if path.is_empty() { "" } else { "/" };
            let path = format!("{path}{slash}{name}");
            things.entry(path).or_insert(Thing { attributes, what });
        }
        things
    })
}
