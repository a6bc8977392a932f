//! Layers over each other.

use std::io::{Cursor, Read};

use erofs::{Attributes, Error, Follow, Kind, Layer, Reader, View};

type Image = Cursor<Vec<u8>>;

fn layer(fill: impl FnOnce(&mut Layer<&mut Image>) -> Result<(), Error>) -> Reader<Vec<u8>> {
    let mut image = Cursor::new(Vec::new());
    let mut layer = Layer::new(&mut image);
    fill(&mut layer).unwrap();
    layer.finish().unwrap();
    Reader::open(image.into_inner()).unwrap()
}

fn file(layer: &mut Layer<&mut Image>, path: &str, text: &str) -> Result<(), Error> {
    let bytes = text.as_bytes();
    layer.file(
        path.as_bytes(),
        Attributes::default(),
        bytes.len() as u64,
        &mut &*bytes,
    )
}

fn link(layer: &mut Layer<&mut Image>, path: &str, target: &str) -> Result<(), Error> {
    layer.symlink(path.as_bytes(), Attributes::default(), target.as_bytes())
}

fn text(view: &View<Vec<u8>>, path: &str) -> Result<String, Error> {
    let node = view.resolve(path.as_bytes(), Follow::Yes)?;
    let mut text = String::new();
    view.contents(&node)?.read_to_string(&mut text).unwrap();
    Ok(text)
}

fn names(view: &View<Vec<u8>>, path: &str) -> Vec<String> {
    let node = view.resolve(path.as_bytes(), Follow::Yes).unwrap();
    let names = view.names(&node).unwrap().into_iter();
    names.map(|name| String::from_utf8(name).unwrap()).collect()
}

fn three() -> View<Vec<u8>> {
    let bottom = layer(|layer| {
        file(layer, "etc/passwd", "bottom")?;
        file(layer, "etc/old", "bottom")?;
        file(layer, "opt/a/x", "bottom")?;
        file(layer, "opt/b", "bottom")?;
        file(layer, "var/y", "bottom")
    });
    let middle = layer(|layer| {
        layer.whiteout(b"etc/old")?;
        layer.opaque(b"opt/a")?;
        file(layer, "opt/a/new", "middle")?;
        file(layer, "var", "a file now")
    });
    let top = layer(|layer| {
        file(layer, "etc/passwd", "top")?;
        file(layer, "etc/more", "top")?;
        file(layer, "opt/a/top", "top")?;
        file(layer, "var/z", "top")
    });
    View::new(vec![top, middle, bottom])
}

#[test]
fn the_topmost_layer_decides_and_directories_are_merged() {
    let view = three();
    assert_eq!(names(&view, "/"), ["etc", "opt", "var"]);
    assert_eq!(names(&view, "etc"), ["more", "passwd"]);
    assert_eq!(text(&view, "etc/passwd").unwrap(), "top");
    assert_eq!(names(&view, "opt"), ["a", "b"]);
    assert_eq!(names(&view, "opt/a"), ["new", "top"]);
    // What is below a file is hidden, whatever is above it.
    assert_eq!(names(&view, "var"), ["z"]);
    for gone in ["etc/old", "opt/a/x", "var/y", "nothing"] {
        assert!(
            matches!(text(&view, gone), Err(Error::NotFound(_))),
            "{gone}"
        );
    }
}

#[test]
fn a_root_that_is_opaque_hides_all_below() {
    let bottom = layer(|layer| file(layer, "a", "bottom"));
    let top = layer(|layer| {
        layer.opaque(b"")?;
        file(layer, "b", "top")
    });
    let view = View::new(vec![top, bottom]);
    assert_eq!(names(&view, ""), ["b"]);
    assert!(matches!(
        View::<Vec<u8>>::new(vec![]).root(),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn links_are_followed_within_the_root() {
    let bottom = layer(|layer| {
        file(layer, "usr/lib/x", "found")?;
        link(layer, "lib", "usr/lib")?;
        link(layer, "absolute", "/lib/x")?;
        link(layer, "usr/out", "../../../../../lib/x")?;
        link(layer, "loop", "loop")
    });
    let top = layer(|layer| link(layer, "usr/lib/up", "../.."));
    let view = View::new(vec![top, bottom]);
    for path in [
        "lib/x",
        "absolute",
        "usr/out",
        "/lib/../lib/./x",
        "../usr/lib/x",
        "lib/up/lib/x",
    ] {
        assert_eq!(text(&view, path).unwrap(), "found", "{path}");
    }
    let link = view.resolve(b"absolute", Follow::No).unwrap();
    assert_eq!(link.inode().kind(), Kind::Symlink);
    assert_eq!(view.target(&link).unwrap(), b"/lib/x");
    assert!(matches!(text(&view, "loop"), Err(Error::Loop(_))));
    assert!(matches!(
        text(&view, "lib/x/y"),
        Err(Error::NotDirectory { .. })
    ));
    assert!(matches!(
        text(&view, "lib/x/.."),
        Err(Error::NotDirectory { .. })
    ));
}

#[test]
fn the_same_file_has_the_same_identity() {
    let view = View::new(vec![layer(|layer| {
        file(layer, "a", "x")?;
        layer.hard_link(b"b", b"a")?;
        file(layer, "c", "x")
    })]);
    let identity = |path: &[u8]| view.resolve(path, Follow::No).unwrap().identity();
    assert_eq!(identity(b"a"), identity(b"b"));
    assert_ne!(identity(b"a"), identity(b"c"));
}

#[test]
fn marks_of_overlayfs_are_not_shown() {
    let view = View::new(vec![layer(|layer| layer.opaque(b"a"))]);
    let node = view.resolve(b"a", Follow::No).unwrap();
    assert!(view.xattrs(&node).unwrap().is_empty());
}
