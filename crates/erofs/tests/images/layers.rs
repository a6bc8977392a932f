//! What the entries of a layer do to each other.

use std::collections::BTreeMap;
use std::io::Cursor;

use erofs::{Attributes, Error, Kind, Layer, Limits, Reader, Special, Summary, Xattrs};
use proptest::prelude::*;

use crate::trees::{Thing, Things, What, leaf, put, read};

type Image = Cursor<Vec<u8>>;

/// The layer that `fill` makes.
fn layer(fill: impl FnOnce(&mut Layer<&mut Image>) -> Result<(), Error>) -> (Things, Summary) {
    let mut image = Cursor::new(Vec::new());
    let mut layer = Layer::new(&mut image);
    fill(&mut layer).unwrap();
    let summary = layer.finish().unwrap();
    let reader = Reader::open(image.into_inner()).unwrap();
    (read(&reader), summary)
}

/// What `fill` is refused with.
fn refused(fill: impl FnOnce(&mut Layer<&mut Image>) -> Result<(), Error>) -> String {
    let mut image = Cursor::new(Vec::new());
    let mut layer = Layer::new(&mut image);
    fill(&mut layer).unwrap_err().to_string()
}

fn mode(mode: u16) -> Attributes {
    Attributes {
        mode,
        ..Attributes::default()
    }
}

fn file(layer: &mut Layer<&mut Image>, path: &str, text: &str) -> Result<(), Error> {
    let bytes = text.as_bytes();
    layer.file(
        path.as_bytes(),
        mode(0o644),
        bytes.len() as u64,
        &mut &*bytes,
    )
}

fn is_opaque(thing: &Thing) -> bool {
    thing
        .attributes
        .xattrs
        .contains_key(&b"trusted.overlay.opaque"[..])
}

fn paths(things: &Things) -> Vec<&str> {
    things.keys().map(String::as_str).collect()
}

const GONE: What = What::Special(Special::Character { major: 0, minor: 0 });

#[test]
fn parents_that_are_missing_are_roots_and_0755() {
    let (things, summary) = layer(|layer| file(layer, "/a/./b//c", "x"));
    assert_eq!(paths(&things), ["", "a", "a/b", "a/b/c"]);
    assert_eq!(things["a/b"].attributes, mode(0o755));
    assert_eq!(summary.implicit, 3);
}

#[test]
fn a_later_directory_gives_attributes_and_keeps_what_is_in_it() {
    let (things, summary) = layer(|layer| {
        file(layer, "a/b", "x")?;
        layer.directory(b"a", mode(0o700))?;
        layer.directory(b"a", mode(0o1777))?;
        layer.directory(b"./", mode(0o711))
    });
    assert_eq!(paths(&things), ["", "a", "a/b"]);
    assert_eq!(things["a"].attributes, mode(0o1777));
    assert_eq!(things[""].attributes, mode(0o711));
    assert_eq!(summary.implicit, 0);
}

#[test]
fn a_file_replaces_a_directory_and_all_in_it_and_a_directory_a_file() {
    let (things, _) = layer(|layer| {
        file(layer, "a/b/c", "x")?;
        file(layer, "a", "y")?;
        file(layer, "d", "x")?;
        layer.directory(b"d", mode(0o755))?;
        file(layer, "d/e", "z")
    });
    assert_eq!(paths(&things), ["", "a", "d", "d/e"]);
    assert_eq!(things["a"].what, What::File(b"y".to_vec()));
    // Applied one after the other, nothing of a lower `d` would be left.
    assert!(is_opaque(&things["d"]));
}

#[test]
fn the_other_names_of_a_file_that_is_replaced_keep_it() {
    let (things, _) = layer(|layer| {
        file(layer, "a", "old")?;
        layer.hard_link(b"b", b"/a")?;
        file(layer, "a", "new")?;
        layer.hard_link(b"b", b"b")
    });
    assert_eq!(things["a"].what, What::File(b"new".to_vec()));
    assert_eq!(things["b"].what, What::File(b"old".to_vec()));
}

#[test]
fn a_whiteout_hides_what_is_below_and_nothing_of_its_own_layer() {
    let (things, _) = layer(|layer| {
        layer.whiteout(b"gone")?;
        layer.whiteout(b"before")?;
        file(layer, "before/x", "x")?;
        file(layer, "after/x", "x")?;
        layer.whiteout(b"after")?;
        layer.whiteout(b"file")?;
        file(layer, "file", "x")?;
        layer.node(b"node", mode(0), Special::Character { major: 0, minor: 0 })
    });
    assert_eq!(
        paths(&things),
        [
            "", "after", "after/x", "before", "before/x", "file", "gone", "node"
        ]
    );
    assert_eq!((&things["gone"].what, &things["node"].what), (&GONE, &GONE));
    assert!(is_opaque(&things["before"]) && is_opaque(&things["after"]));
    assert_eq!(things["file"].what, What::File(b"x".to_vec()));
}

#[test]
fn an_opaque_directory_is_made_if_it_is_missing_and_that_of_the_root_is_told() {
    let (things, summary) = layer(|layer| layer.opaque(b"a/b"));
    assert!(is_opaque(&things["a/b"]) && !is_opaque(&things["a"]));
    assert!(!summary.opaque);
    let (things, summary) = layer(|layer| layer.opaque(b""));
    assert!(is_opaque(&things[""]) && summary.opaque);
}

#[test]
fn marks_of_overlayfs_that_come_with_an_entry_are_not_believed() {
    let names = [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "user.overlay.metacopy",
    ];
    let xattrs: Xattrs = names.map(|name| (name.into(), b"/etc".to_vec())).into();
    let attributes = Attributes {
        xattrs,
        ..mode(0o755)
    };
    let (things, _) = layer(|layer| layer.directory(b"a", attributes));
    assert_eq!(things["a"].attributes, mode(0o755));
}

#[test]
fn symbolic_links_of_the_layer_are_followed_on_the_way_and_never_out_of_it() {
    let (things, _) = layer(|layer| {
        layer.symlink(b"relative", mode(0o777), b"usr/lib")?;
        layer.symlink(b"usr/absolute", mode(0o777), b"/usr/lib")?;
        layer.symlink(b"out", mode(0o777), b"../../../out-of-it")?;
        file(layer, "relative/a", "x")?;
        file(layer, "usr/absolute/b", "x")?;
        file(layer, "out/c", "x")?;
        // The last component is not followed.
        layer.symlink(b"end", mode(0o777), b"usr")?;
        file(layer, "end", "x")?;
        layer.hard_link(b"d", b"relative/a")
    });
    let expected = [
        "",
        "d",
        "end",
        "out",
        "out-of-it",
        "out-of-it/c",
        "relative",
        "usr",
        "usr/absolute",
        "usr/lib",
        "usr/lib/a",
        "usr/lib/b",
    ];
    assert_eq!(paths(&things), expected);
    assert_eq!(things["end"].what, What::File(b"x".to_vec()));
}

#[test]
fn what_cannot_be_is_refused_and_the_entry_named() {
    let text = refused(|layer| file(layer, "a/../../etc/passwd", "x"));
    assert!(
        text.contains("`a/../../etc/passwd`") && text.contains("`..`"),
        "{text}"
    );
    let text = refused(|layer| layer.hard_link(b"a", b"b/missing"));
    assert!(
        text.contains("`a`") && text.contains("`b/missing`"),
        "{text}"
    );
    let text = refused(|layer| {
        layer.directory(b"d", mode(0))?;
        layer.hard_link(b"a", b"d")
    });
    assert!(text.contains("directory"), "{text}");
    let text = refused(|layer| {
        layer.whiteout(b"w")?;
        layer.hard_link(b"a", b"w")
    });
    assert!(text.contains("removes"), "{text}");
    let text = refused(|layer| {
        file(layer, "f", "x")?;
        file(layer, "f/x", "x")
    });
    assert!(
        text.contains("`f/x`") && text.contains("no directory"),
        "{text}"
    );
    let text = refused(|layer| {
        layer.symlink(b"a", mode(0o777), b"b")?;
        layer.symlink(b"b", mode(0o777), b"a")?;
        file(layer, "a/x", "x")
    });
    assert!(text.contains("too many symbolic links"), "{text}");
    let text = refused(|layer| file(layer, &"d/".repeat(2000), "x"));
    assert!(text.contains("1024 directories deep"), "{text}");
    let text = refused(|layer| file(layer, "./", "x"));
    assert!(text.contains("root"), "{text}");
    let device = Special::Block {
        major: 4096,
        minor: 0,
    };
    let text = refused(|layer| layer.node(b"dev", mode(0), device));
    assert!(text.contains("`dev`") && text.contains("4095"), "{text}");
    for target in [&b""[..], b"a\0b", &[b'x'; 4096]] {
        let text = refused(|layer| layer.symlink(b"link", mode(0o777), target));
        assert!(text.contains("`link`"), "{text}");
    }
    let text = refused(|layer| layer.file(b"f", mode(0), 10, &mut &b"1234"[..]));
    assert!(text.contains("after 4 of 10 bytes"), "{text}");
    let text = refused(|layer| layer.file(b"f", mode(0), 5000, &mut &b"1234"[..]));
    assert!(text.contains("after 4 of 5000 bytes"), "{text}");
}

#[test]
fn every_limit_is_kept_and_named() {
    let limits = Limits {
        entries: 10,
        names: 1000,
        contents: 100,
        ends: 50,
    };
    let mut image = Cursor::new(Vec::new());
    let mut layer = Layer::with_limits(&mut image, limits);
    let text = file(&mut layer, "a", &"x".repeat(101))
        .unwrap_err()
        .to_string();
    assert!(text.contains("more than 100 bytes of contents"), "{text}");
    let mut layer = Layer::with_limits(&mut image, limits);
    let text = file(&mut layer, "1/2/3/4/5/6/7/8/9/10/11", "").unwrap_err();
    assert!(text.to_string().contains("more than 10 entries"), "{text}");
    let mut layer = Layer::with_limits(&mut image, limits);
    for number in 0..5 {
        layer
            .directory(format!("{number}").as_bytes(), mode(0))
            .unwrap();
        layer
            .directory(format!("{number}").as_bytes(), mode(0))
            .unwrap();
    }
    assert!(layer.directory(b"0", mode(0)).is_err());
    let mut layer = Layer::with_limits(&mut image, limits);
    let text = layer.symlink(b"a", mode(0), &[b'x'; 1001]).unwrap_err();
    assert!(
        text.to_string().contains("more than 1000 bytes of names"),
        "{text}"
    );
    let mut layer = Layer::with_limits(&mut image, limits);
    let xattrs = Xattrs::from([(b"user.a".to_vec(), vec![0; 1000])]);
    let attributes = Attributes { xattrs, ..mode(0) };
    let text = layer.directory(b"a", attributes).unwrap_err();
    assert!(
        text.to_string().contains("more than 1000 bytes of names"),
        "{text}"
    );
}

#[test]
fn ends_of_files_beyond_the_limit_get_blocks() {
    let image = |ends| {
        let mut image = Cursor::new(Vec::new());
        let limits = Limits {
            ends,
            ..Limits::default()
        };
        let mut layer = Layer::with_limits(&mut image, limits);
        for number in 0..10 {
            file(&mut layer, &format!("{number}"), "0123456789").unwrap();
        }
        layer.finish().unwrap();
        image.into_inner()
    };
    let (few, many) = (image(35), image(1000));
    assert_eq!((few.len(), many.len()), (9 * 4096, 2 * 4096));
    let things = |image: Vec<u8>| read(&Reader::open(image).unwrap());
    assert_eq!(things(few), things(many));
}

/// What a sequence of entries makes of paths, thought out anew: a map of paths, without links.
#[derive(Default)]
struct Model(BTreeMap<String, (What, bool)>);

impl Model {
    fn is_directory(&self, path: &str) -> bool {
        self.0
            .get(path)
            .is_some_and(|(what, _)| *what == What::Directory)
    }

    /// False if a parent is something else.
    fn parents(&mut self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at);
        for parent in ends.map(|at| &path[..at]) {
            match self.0.get(parent) {
                Some((What::Directory, _)) => {}
                Some((what, _)) if *what != GONE => return false,
                _ => self.directory(parent),
            }
        }
        true
    }

    fn directory(&mut self, path: &str) {
        if !self.is_directory(path) {
            let hides = self.0.contains_key(path);
            self.0.insert(path.to_owned(), (What::Directory, hides));
        }
    }

    fn other(&mut self, path: &str, what: What) {
        let below = format!("{path}/");
        self.0.retain(|known, _| !known.starts_with(&below));
        self.0.insert(path.to_owned(), (what, false));
    }

    fn whiteout(&mut self, path: &str) {
        match self.0.get_mut(path) {
            Some((What::Directory, hides)) => *hides = true,
            Some(_) => {}
            None => self.other(path, GONE),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(What),
    Whiteout,
    Opaque,
}

fn steps() -> impl Strategy<Value = Vec<(String, Step)>> {
    let not_a_link = leaf().prop_filter("no link", |what| !matches!(what, What::Symlink(_)));
    let step = prop_oneof![
        3 => Just(Step::Put(What::Directory)),
        3 => not_a_link.prop_map(Step::Put),
        1 => Just(Step::Whiteout),
        1 => Just(Step::Opaque),
    ];
    proptest::collection::vec(("[ab](/[ab]){0,3}", step), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_sequence_of_entries_ends_as_if_each_had_been_carried_out(steps in steps()) {
        let mut model = Model::default();
        model.directory("");
        let mut image = Cursor::new(Vec::new());
        let mut layer = Layer::new(&mut image);
        for (path, step) in steps {
            let is_free = model.parents(&path);
            // What is opaque, or has something in it, must be a directory itself.
            let below = format!("{path}/x");
            let done = match &step {
                Step::Put(what) if is_free => {
                    let thing = Thing { attributes: mode(0o755), what: what.clone() };
                    put(&mut layer, &path, &thing);
                    match what {
                        What::Directory => model.directory(&path),
                        _ => model.other(&path, what.clone()),
                    }
                    Ok(())
                }
                Step::Whiteout if is_free => {
                    model.whiteout(&path);
                    layer.whiteout(path.as_bytes())
                }
                Step::Opaque if is_free && model.parents(&below) => {
                    model.0.get_mut(&path).unwrap().1 = true;
                    layer.opaque(path.as_bytes())
                }
                _ => {
                    prop_assert!(layer.opaque(path.as_bytes()).is_err());
                    Ok(())
                }
            };
            prop_assert!(done.is_ok());
        }
        layer.finish().unwrap();
        let found = read(&Reader::open(image.into_inner()).unwrap());
        let found: BTreeMap<_, _> = found.into_iter()
            .map(|(path, thing)| { let hides = is_opaque(&thing); (path, (thing.what, hides)) })
            .collect();
        prop_assert!(found == model.0);
    }
}

#[test]
fn a_hard_link_counts_and_shares() {
    let mut image = Cursor::new(Vec::new());
    let mut layer = Layer::new(&mut image);
    file(&mut layer, "a", "x").unwrap();
    layer.hard_link(b"d/b", b"a").unwrap();
    layer.hard_link(b"c", b"d/b").unwrap();
    layer.finish().unwrap();
    let reader = Reader::open(image.into_inner()).unwrap();
    let find = |name: &[u8]| reader.lookup(&reader.root(), name).unwrap().unwrap();
    assert_eq!(find(b"a"), find(b"c"));
    assert_eq!((find(b"a").links(), find(b"a").kind()), (3, Kind::File));
    assert_eq!(reader.root().links(), 3);
}
