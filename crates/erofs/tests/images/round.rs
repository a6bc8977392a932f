//! What is written is read back, whatever it is.

use crate::trees::{Things, read, tree, write};
use erofs::{Layer, Reader};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tree_is_read_back_equal_in_whatever_order_it_came(things in tree()) {
        let image = write(&things);
        let reader = Reader::open(&image[..]).unwrap();
        let found = read(&reader);
        prop_assert!(found == things, "{:?}", difference(&found, &things));
        prop_assert_eq!(reader.inodes(), things.len() as u64);
        prop_assert_eq!(image.len() % 4096, 0);
        // Parents last: they are there already when their own entries come.
        let backwards = write(things.iter().rev());
        let reader = Reader::open(&backwards[..]).unwrap();
        prop_assert!(read(&reader) == things);
    }

    #[test]
    fn the_same_entries_make_the_same_bytes(things in tree()) {
        prop_assert!(write(&things) == write(&things));
    }
}

/// The first path at which two trees differ.
fn difference<'a>(a: &'a Things, b: &'a Things) -> Option<&'a String> {
    let mut paths = a.keys().chain(b.keys());
    paths.find(|path| a.get(*path) != b.get(*path))
}

#[test]
fn an_empty_layer_is_an_image_with_a_root() {
    let image = write(&Things::new());
    assert_eq!(image.len(), 2 * 4096);
    let reader = Reader::open(image).unwrap();
    let things = read(&reader);
    assert_eq!(things.len(), 1);
    assert_eq!(things[""].attributes.mode, 0o755);
    assert_eq!(reader.root().links(), 2);
}

#[test]
fn a_directory_of_ten_thousand_names_is_found_through_every_block() {
    let mut image = std::io::Cursor::new(Vec::new());
    let mut layer = Layer::new(&mut image);
    for number in 0..10_000 {
        let path = format!("d/file-{number}");
        layer
            .file(path.as_bytes(), Default::default(), 1, &mut &b"x"[..])
            .unwrap();
    }
    let summary = layer.finish().unwrap();
    assert_eq!(
        (summary.inodes, summary.contents, summary.implicit),
        (10_002, 10_000, 2)
    );
    let reader = Reader::open(image.into_inner()).unwrap();
    let directory = reader.lookup(&reader.root(), b"d").unwrap().unwrap();
    assert_eq!(reader.entries(&directory).count(), 10_000);
    for number in [0, 1, 4999, 9999] {
        let name = format!("file-{number}");
        assert!(
            reader
                .lookup(&directory, name.as_bytes())
                .unwrap()
                .is_some()
        );
    }
    assert_eq!(reader.lookup(&directory, b"file-10000").unwrap(), None);
    // A byte and its inode, not a block each.
    assert!(summary.size < 10_000 * 200, "{}", summary.size);
}
