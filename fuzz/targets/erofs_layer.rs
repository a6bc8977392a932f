//! Entries in any order, with any paths. What is written can be read, and stays within itself.
#![no_main]

use std::io::Cursor;

use erofs::{Attributes, Kind, Layer, Limits, Reader, Special};
use libfuzzer_sys::fuzz_target;

type Entry<'a> = (u8, &'a [u8], &'a [u8], u16);

/// Every inode once for each of its names, all of them sound.
fn check(image: &[u8]) {
    let reader = Reader::open(image).unwrap();
    let mut pending = vec![reader.root()];
    while let Some(inode) = pending.pop() {
        reader.xattrs(&inode).unwrap();
        let size = usize::try_from(inode.size()).unwrap();
        assert_eq!(reader.read(&inode, 0, &mut vec![0; size]).unwrap(), size);
        if inode.kind() == Kind::Symlink {
            reader.target(&inode).unwrap();
        }
        let entries: Vec<_> = reader.entries(&inode).map(Result::unwrap).collect();
        assert!(entries.is_sorted_by(|a, b| a.name < b.name));
        pending.extend(
            entries
                .iter()
                .map(|entry| reader.inode(entry.number).unwrap()),
        );
    }
}

fuzz_target!(|entries: Vec<Entry<'_>>| {
    let mut image = Cursor::new(Vec::new());
    let limits = Limits {
        entries: 2000,
        contents: 1 << 20,
        ..Limits::default()
    };
    let mut layer = Layer::with_limits(&mut image, limits);
    for (kind, path, other, size) in entries {
        let name = b"user.x".to_vec();
        let attributes = Attributes {
            mode: size,
            xattrs: [(name, other.to_vec())]
                .into_iter()
                .take((size % 2).into())
                .collect(),
            ..Attributes::default()
        };
        let contents = &mut std::io::repeat(kind);
        // What is refused is left out, and harms nothing.
        let _ = match kind % 7 {
            0 => layer.file(path, attributes, size.into(), contents),
            1 => layer.directory(path, attributes),
            2 => layer.symlink(path, attributes, other),
            3 => layer.hard_link(path, other),
            4 => layer.whiteout(path),
            5 => layer.opaque(path),
            _ => layer.node(path, attributes, Special::Fifo),
        };
    }
    layer.finish().unwrap();
    check(image.get_ref());
});
