//! Registries that lie, stall and break.

use std::{
    error::Error as StdError,
    fs::{self, File},
    io::Write,
    path::Path,
};

use image::{Blob, Error, Pull, Unpack};

use crate::rig::{
    End, Fake, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, OCI_TAR, Reply, Sample, counter, descriptor,
    files, get, noise, refusal, store,
};

/// A registry with one image, which answers with `reply` instead of its layer.
fn instead(image: &Sample, reply: Reply) -> Fake {
    let target = format!("/v2/x/blobs/{}", image.layer(0));
    let fake = Fake::with(move |request, _| (request.path == target).then(|| reply.clone()));
    fake.add("latest", image);
    fake
}

/// What is left in a store after an image could not be had.
fn remains(fake: &Fake) -> (Error, Vec<String>) {
    let root = tempfile::tempdir().unwrap();
    let error = get(&store(root.path()), &fake.name("x")).unwrap_err();
    (error, layer_files(root.path()))
}

/// Without the documents, which are whole.
fn layer_files(root: &Path) -> Vec<String> {
    let blobs = root.join("blobs/sha256");
    let is_layer = |name: &String| !fs::read(blobs.join(name)).unwrap().starts_with(b"{");
    files(&blobs).into_iter().filter(is_layer).collect()
}

#[test]
fn a_blob_that_is_another_is_not_kept() {
    let image = Sample::new(&[b"right"]);
    let (error, left) = remains(&instead(&image, Reply::new(200, "wrong")));
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_blob_of_another_length_is_refused_before_it_comes() {
    let image = Sample::new(&[b"right"]);
    for body in ["longer than right", "rig"] {
        let (error, left) = remains(&instead(&image, Reply::new(200, body)));
        assert!(
            matches!(error, Error::WrongSize { expected: 5, .. }),
            "{error}"
        );
        assert!(
            left.iter().all(|name| name.ends_with(".partial")),
            "{left:?}"
        );
    }
}

#[test]
fn a_blob_that_does_not_end_is_cut_off_where_it_should() {
    let image = Sample::new(&[&noise(100_000, 4)]);
    let more = Reply::new(200, noise(70_000, 5)).end(End::Endless);
    let (error, left) = remains(&instead(&image, more));
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_blob_that_stops_coming_is_fetched_again_but_not_for_ever() {
    let image = Sample::new(&[&noise(100_000, 6)]);
    let layer = image.layers[0].clone();
    let stalled = Reply::new(200, layer).end(End::Stall(10_000));
    let (error, left) = remains(&instead(&image, stalled.clone()));
    assert!(matches!(error, Error::Stalled { .. }), "{error}");
    assert!(
        left.iter().all(|name| name.ends_with(".partial")) && left.len() == 1,
        "{left:?}"
    );

    let target = format!("/v2/x/blobs/{}", image.layer(0));
    let count = counter();
    let fake = Fake::with(move |request, _| {
        (request.path == target && count() == 0).then(|| stalled.clone())
    });
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    get(&store(root.path()), &fake.name("x")).unwrap();
    assert!(
        fake.log()
            .iter()
            .any(|asked| asked.header("range") == Some("bytes=10000-"))
    );
}

#[test]
fn a_registry_that_says_nothing_at_all_is_an_error() {
    let fake = Fake::with(|request, _| {
        let asked = request.path.contains("/manifests/");
        asked.then(|| Reply::new(200, "x").end(End::Stall(0)))
    });
    let error = refusal(&fake, "x");
    assert!(matches!(error, Error::Stalled { .. }), "{error}");
    assert!(error.to_string().contains(&fake.host));
}

#[test]
fn nobody_at_the_other_end_is_said_at_once() {
    let fake = Fake::new();
    let host = fake.host.clone();
    drop(fake);
    let root = tempfile::tempdir().unwrap();
    let name = format!("{host}/x").parse().unwrap();
    let error = get(&store(root.path()), &name).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&host) && error.source().is_some());
}

#[test]
fn what_is_left_from_before_and_wrong_is_fetched_anew() {
    let fake = Fake::new();
    let image = Sample::new(&[&noise(100_000, 7)]);
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let left = root
        .path()
        .join(format!("blobs/sha256/{}.partial", image.layer(0).hex()));
    fs::write(&left, vec![0; 1000]).unwrap();
    get(&store, &fake.name("x")).unwrap();
    assert!(!left.exists());
}

#[test]
fn a_manifest_has_to_be_what_was_asked_for() {
    let image = Sample::new(&[b"x"]);
    let pinned = format!("x@{}", image.digest());
    let other = Fake::with(|request, _| {
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::new(200, "{}"))
    });
    let error = refusal(&other, &pinned);
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    // And of the length that the index says.
    let fake = Fake::new();
    fake.add("other", &image);
    let entry = serde_json::json!({"mediaType": OCI_MANIFEST, "digest": image.digest(), "size": 1,
        "platform": image::Platform::of_host()});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    fake.add_manifest("latest", OCI_INDEX, index.as_bytes());
    let error = refusal(&fake, "x");
    assert!(matches!(error, Error::WrongSize { .. }), "{error}");
}

#[test]
fn documents_that_make_no_sense_are_refused_by_name() {
    let config = descriptor(OCI_CONFIG, b"{}");
    let two = descriptor(OCI_TAR, b"x");
    let odd = [
        ("large", "x".repeat((4 << 20) + 1), "4 MiB"),
        (
            "schema1",
            r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}]}"#.to_owned(),
            "schema 1",
        ),
        ("text", "<html>".to_owned(), "manifest of"),
        (
            "config",
            format!(r#"{{"config":{config},"layers":[]}}"#),
            "configuration of",
        ),
        (
            "huge",
            r#"{"config":{"digest":"sha256:00","size":-1},"layers":[]}"#.to_owned(),
            "not a digest",
        ),
        (
            "configuration",
            format!(
                r#"{{"config":{},"layers":[{two}]}}"#,
                serde_json::json!({"mediaType": OCI_CONFIG, "digest": image::Digest::of(b""), "size": 5 << 20})
            ),
            "larger than 4 MiB",
        ),
    ];
    let fake = Fake::with(|request, _| {
        request
            .path
            .ends_with(&image::Digest::of(b"{}").to_string())
            .then(|| Reply::new(200, "{}"))
    });
    for (tag, text, word) in odd {
        fake.add_manifest(tag, OCI_MANIFEST, text.as_bytes());
        let message = refusal(&fake, &format!("x:{tag}")).to_string();
        assert!(
            message.contains(word) && message.contains("x:"),
            "{tag}: {message}"
        );
    }
}

#[test]
fn layers_and_configuration_have_to_agree() {
    let mut image = Sample::new(&[b"one", b"two"]);
    image.manifest = serde_json::json!({
        "schemaVersion": 2, "config": descriptor(OCI_CONFIG, &image.config),
        "layers": [descriptor(OCI_TAR, b"one")],
    })
    .to_string();
    let fake = Fake::new();
    fake.add("latest", &image);
    let message = refusal(&fake, "x").to_string();
    assert!(message.contains("different numbers of layers"), "{message}");
}

#[test]
fn a_layer_that_is_compressed_otherwise_than_it_says_is_not_unpacked() {
    let plain = Sample::new(&[&crate::rig::gzip(b"x")]);
    let fake = Fake::new();
    fake.add("latest", &plain);
    let message = refusal(&fake, "x").to_string();
    assert!(
        message.contains("looks like") && message.contains("gzip"),
        "{message}"
    );
}

#[test]
fn a_registry_that_sends_us_round_in_circles_is_left() {
    let fake = Fake::with(|request, _| {
        let location = request.path.clone();
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::new(302, "").header("Location", location))
    });
    let message = refusal(&fake, "x").to_string();
    assert!(message.contains("one address to the next"), "{message}");
    let odd = Fake::with(|request, _| {
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::new(302, "").header("Location", "file:///etc/passwd"))
    });
    let message = refusal(&odd, "x").to_string();
    assert!(message.contains("no address"), "{message}");
}

/// Writes something, and fails.
struct Broken;

impl Unpack for Broken {
    fn unpack(&self, _: Blob<'_>, mut output: File) -> Result<(), Box<dyn StdError + Send + Sync>> {
        output.write_all(b"half")?;
        Err("a hole".into())
    }
}

#[test]
fn what_could_not_be_unpacked_is_not_there_and_is_tried_again() {
    let fake = Fake::new();
    fake.add("latest", &Sample::new(&[b"one", b"two"]));
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let error = store
        .get(&fake.name("x"), &Pull::default(), &Broken, &())
        .unwrap_err();
    assert!(matches!(error, Error::Unpack { .. }), "{error}");
    assert_eq!(error.source().unwrap().to_string(), "a hole");
    assert_eq!(
        files(&root.path().join("layers/sha256")),
        Vec::<String>::new()
    );
    get(&store, &fake.name("x")).unwrap();
}

#[test]
fn a_layer_that_was_damaged_here_is_fetched_again() {
    let fake = Fake::new();
    let image = Sample::new(&[b"whole"]);
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    get(&store, &fake.name("x")).unwrap();
    let in_store = |kind: &str| {
        root.path()
            .join(kind)
            .join("sha256")
            .join(image.layer(0).hex())
    };
    fs::remove_file(in_store("layers")).unwrap();
    fs::write(in_store("blobs"), "damaged").unwrap();
    let error = store
        .get(&fake.name("x"), &Pull::default(), &Broken, &())
        .unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    get(&store, &fake.name("x")).unwrap();
    assert_eq!(fs::read(in_store("layers")).unwrap(), b"whole");
}

#[test]
fn a_registry_that_always_breaks_at_the_same_place_is_left() {
    let image = Sample::new(&[&noise(200_000, 10)]);
    let layer = image.layers[0].clone();
    let cut = Reply::new(200, layer).end(End::Cut(100_000));
    let (error, _) = remains(&instead(&image, cut.clone()));
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    // Also if it says in between that there is nothing to go on with.
    let target = format!("/v2/x/blobs/{}", image.layer(0));
    let fake = Fake::with(move |request, _| {
        let first = request.header("range").is_none();
        let reply = || {
            if first {
                cut.clone()
            } else {
                Reply::new(416, "")
            }
        };
        (request.path == target).then(reply)
    });
    fake.add("latest", &image);
    let error = refusal(&fake, "x");
    assert!(
        matches!(error, Error::Unreachable { .. } | Error::Malformed { .. }),
        "{error}"
    );
}
