//! Images that nobody should have written.

use std::io::{Cursor, Read};

use erofs::{Attributes, Follow, Kind, Layer, ReadAt, Reader, View, Xattrs, seal};
use proptest::prelude::*;

/// A small image with one of everything.
fn sound() -> Vec<u8> {
    let mut image = Cursor::new(Vec::new());
    let mut layer = Layer::new(&mut image);
    let xattrs = Xattrs::from([(b"user.a".to_vec(), vec![7; 30])]);
    let attributes = Attributes {
        xattrs,
        ..Attributes::default()
    };
    layer.directory(b"d", attributes.clone()).unwrap();
    layer
        .file(b"d/large", attributes, 5000, &mut std::io::repeat(1))
        .unwrap();
    layer
        .file(b"d/small", Attributes::default(), 3, &mut &b"abc"[..])
        .unwrap();
    layer
        .symlink(b"link", Attributes::default(), b"d/small")
        .unwrap();
    layer.whiteout(b"gone").unwrap();
    layer.finish().unwrap();
    image.into_inner()
}

/// Looks at everything that is not too deep, and ends whatever it sees.
fn look<R: ReadAt>(reader: &Reader<R>) {
    let mut pending = vec![(0, reader.root())];
    let mut left = 2000;
    while let Some((depth, inode)) = pending.pop() {
        let _ = reader.xattrs(&inode);
        let _ = reader.target(&inode);
        let mut start = [0; 100];
        let _ = reader.contents(&inode).read(&mut start);
        let _ = reader.read(&inode, inode.size() / 2, &mut start);
        let _ = reader.read(&inode, u64::MAX - 3, &mut start);
        for entry in reader.entries(&inode).take(100) {
            left -= 1;
            let Ok(entry) = entry else { break };
            assert!(!entry.name.is_empty() && entry.name.len() < 256);
            assert!(!entry.name.contains(&b'/') && !entry.name.contains(&0));
            if let Ok(child) = reader.inode(entry.number)
                && depth < 5
                && left > 0
            {
                pending.push((depth + 1, child));
            }
        }
    }
}

/// Opens, looks, and walks.
fn all(image: &[u8]) {
    if let Ok(reader) = Reader::open(image) {
        look(&reader);
    }
    let readers = [image, image].map(Reader::open);
    let readers: Vec<_> = readers.into_iter().flatten().collect();
    let view = View::new(readers);
    for path in [&b"d/large"[..], b"link", b"gone", b"d/../d/small"] {
        let _ = view.resolve(path, Follow::Yes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn changed_bytes_are_errors_or_other_contents_and_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut image = sound();
        // The superblock, and the inodes at the end: the rest is contents.
        let metadata = image.len() - 4096;
        let places: Vec<usize> = (1024..1152).chain(metadata..image.len()).collect();
        for (index, byte) in changes {
            image[*index.get(&places)] = byte;
        }
        seal(&mut image);
        all(&image);
    }
}

/// Reads all of a sound image.
fn every_byte(reader: &Reader<&[u8]>) -> Result<(), erofs::Error> {
    let mut pending = vec![reader.root()];
    while let Some(inode) = pending.pop() {
        reader.xattrs(&inode)?;
        reader.target(&inode)?;
        let mut contents = vec![0; usize::try_from(inode.size()).unwrap()];
        reader.read(&inode, 0, &mut contents)?;
        for entry in reader.entries(&inode) {
            pending.push(reader.inode(entry?.number)?);
        }
    }
    Ok(())
}

#[test]
fn every_truncation_is_an_error() {
    let image = sound();
    for length in (0..image.len()).step_by(97) {
        let Ok(reader) = Reader::open(&image[..length]) else {
            continue;
        };
        let whole = every_byte(&reader).is_ok();
        // What is missing is padding.
        assert!(
            !whole || image[length..].iter().all(|byte| *byte == 0),
            "{length}"
        );
        all(&image[..length]);
    }
}

#[test]
fn an_image_of_another_kind_is_refused_with_the_reason() {
    let changed = |at: usize, byte: u8| {
        let mut image = sound();
        image[at] = byte;
        seal(&mut image);
        Reader::open(image).map(drop).unwrap_err().to_string()
    };
    assert!(changed(1024, 0).contains("does not begin as EROFS does"));
    assert!(changed(1024 + 12, 9).contains("blocks of another size"));
    assert!(changed(1024 + 80, 1).contains("features that change the format"));
    assert!(changed(1024 + 14, 255).contains("damaged"));
    let empty: &[u8] = &[];
    assert!(
        Reader::open(empty)
            .map(drop)
            .unwrap_err()
            .to_string()
            .contains("ends too early")
    );
}

#[test]
fn a_directory_that_contains_itself_is_as_deep_as_the_caller_goes() {
    let mut image = sound();
    let reader = Reader::open(image.clone()).unwrap();
    let root = reader.root().number();
    let directory = reader.lookup(&reader.root(), b"d").unwrap().unwrap();
    assert_eq!(directory.kind(), Kind::Directory);
    // Wherever the directory is named, it is the root now.
    let (from, to) = (directory.number().to_le_bytes(), root.to_le_bytes());
    let at = image.len() - 4096;
    let places: Vec<_> = (at..image.len() - 8)
        .filter(|at| image[*at..*at + 8] == from)
        .collect();
    for place in places {
        image[place..place + 8].copy_from_slice(&to);
    }
    let reader = Reader::open(&image[..]).unwrap();
    look(&reader);
    let view = View::new(vec![reader]);
    assert_eq!(
        view.resolve(b"d/d/d/link", Follow::No)
            .unwrap()
            .inode()
            .kind(),
        Kind::Symlink
    );
}
