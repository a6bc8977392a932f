//! Images in files, and images that are made here.

use std::{fs, io::Write, path::Path};

use image::{Digest, Error, Format, Platform, Store, Stored};
use serde_json::json;
use spec::Image;

use crate::rig::{Copy, Fake, OCI_INDEX, Sample, get, gzip, noise, store};

fn import(store: &Store, source: &str) -> Result<Stored, Error> {
    store.import(
        &source.parse().unwrap(),
        None,
        &Platform::of_host(),
        &Copy::default(),
        &(),
    )
}

fn load(store: &Store, archive: &Path) -> Result<Vec<Stored>, Error> {
    store.load(archive, &Platform::of_host(), &Copy::default(), &())
}

fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A layout with images of these names.
fn layout(root: &Path, images: &[(&str, &Sample)]) {
    let mut entries = Vec::new();
    for (name, image) in images {
        for bytes in image.blobs().chain([&image.manifest.clone().into_bytes()]) {
            write(
                root,
                &format!("blobs/sha256/{}", Digest::of(bytes).hex()),
                bytes,
            );
        }
        entries.push(json!({
            "mediaType": image.kind, "digest": image.digest(), "size": image.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": name},
        }));
    }
    write(root, "oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    write(root, "index.json", index.to_string().as_bytes());
}

#[test]
fn an_image_in_a_layout_is_chosen_by_its_name() {
    let (one, two) = (Sample::gzip(&[b"one"]), Sample::docker(&[b"two"]));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layout");
    layout(&path, &[("1", &one), ("docker.io/library/x:2", &two)]);
    let store = store(&directory.path().join("store"));
    let source = |name: &str| format!("oci:{}{name}", path.display());
    assert_eq!(
        get(&store, &source(":1").parse().unwrap())
            .unwrap()
            .digest(),
        one.digest()
    );
    let named = import(&store, &source(":docker.io/library/x:2")).unwrap();
    assert_eq!(
        (named.digest(), named.name()),
        (two.digest(), "docker.io/library/x:2")
    );
    for bad in ["", ":3"] {
        let message = import(&store, &source(bad)).unwrap_err().to_string();
        assert!(message.contains("1, docker.io/library/x:2"), "{message}");
    }
}

#[test]
fn what_is_damaged_in_a_layout_is_not_taken() {
    let image = Sample::new(&[b"right", b"there"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layout");
    let source = format!("oci:{}", path.display());
    let damaged = |name: String, bytes: &[u8]| {
        layout(&path, &[("1", &image)]);
        write(&path, &name, bytes);
        let root = tempfile::tempdir().unwrap();
        import(&store(root.path()), &source).unwrap_err()
    };
    let blob = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
    for (name, bytes) in [
        (blob(image.layer(0)), &b"wrong"[..]),
        (blob(image.layer(1)), b"longer than it was"),
        (blob(Digest::of(&image.config)), b"{}"),
        (blob(image.digest()), b"{}"),
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion": "2.0.0"}"#,
        ),
        ("index.json".to_owned(), b"[]"),
    ] {
        let error = damaged(name.clone(), bytes);
        assert!(
            matches!(
                error,
                Error::WrongDigest { .. } | Error::WrongSize { .. } | Error::Malformed { .. }
            ),
            "{name}: {error}"
        );
    }
    layout(&path, &[("1", &image)]);
    let whole = import(&store(&directory.path().join("store")), &source).unwrap();
    // "1" says nothing to anybody else.
    assert_eq!(whole.name(), source);
}

/// Saves an image and takes it into another store.
fn through(format: Format, kind: &str, image: &Sample) -> (Stored, Vec<u8>, tempfile::TempDir) {
    let fake = Fake::new();
    fake.add("3", image);
    let directory = tempfile::tempdir().unwrap();
    let first = store(&directory.path().join("first"));
    get(&first, &fake.name("x:3")).unwrap();
    let save = || {
        let mut bytes = Vec::new();
        let name = fake.name("x:3").to_string();
        first
            .save(&name, &Platform::of_host(), format, &mut bytes)
            .unwrap();
        bytes
    };
    let bytes = save();
    assert_eq!(bytes, save());
    let archive = directory.path().join("archive.tar");
    fs::write(&archive, &bytes).unwrap();
    let second = store(&directory.path().join("second"));
    let stored = import(&second, &format!("{kind}:{}", archive.display())).unwrap();
    assert_eq!(stored.name(), fake.name("x:3").to_string());
    (stored, bytes, directory)
}

#[test]
fn an_image_goes_through_an_archive_unchanged() {
    for image in [
        Sample::gzip(&[&noise(100_000, 1), b"two", b"two"]),
        Sample::docker(&[b"one"]),
    ] {
        let (stored, _, _directory) = through(Format::Oci, "oci-archive", &image);
        assert_eq!(stored.digest(), image.digest());
    }
}

#[test]
fn an_image_goes_through_an_archive_of_docker_s_with_its_identifier() {
    for image in [
        Sample::gzip(&[&noise(100_000, 2), b"two", b"two"]),
        Sample::new(&[b"one"]),
    ] {
        let (stored, _, _directory) = through(Format::Docker, "docker-archive", &image);
        assert_eq!(stored.id(), Digest::of(&image.config));
        let plain: Vec<_> = stored
            .layers()
            .map(|layer| Digest::of(&fs::read(layer).unwrap()))
            .collect();
        let diff_ids: Vec<_> = stored.blobs().iter().map(|layer| layer.diff_id).collect();
        assert_eq!(plain, diff_ids);
    }
}

#[test]
fn all_images_of_an_archive_are_loaded_whatever_its_kind() {
    let image = Sample::gzip(&[b"one"]);
    for (format, kind) in [
        (Format::Oci, "oci-archive"),
        (Format::Docker, "docker-archive"),
    ] {
        let (stored, bytes, directory) = through(format, kind, &image);
        let path = directory.path().join("to-load.tar");
        fs::write(&path, bytes).unwrap();
        let store = store(&directory.path().join("third"));
        let loaded = load(&store, &path).unwrap();
        let names: Vec<_> = loaded.iter().map(|image| image.name()).collect();
        assert_eq!(names, [stored.name()]);
    }
}

#[test]
fn several_images_of_docker_s_are_loaded_from_one_archive() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive.tar");
    let diff_ids = [Digest::of(b"one")];
    let config = json!({"os": "linux", "architecture": Platform::of_host().architecture,
        "rootfs": {"diff_ids": diff_ids}})
    .to_string();
    let one = |tag: &str| json!({"Config": "c.json", "RepoTags": [tag], "Layers": ["layer.tar"]});
    let saved = json!([one("x:1"), one("y:2")]).to_string();
    let mut archive = tar::Builder::new(fs::File::create(&path).unwrap());
    for (name, bytes) in [
        ("layer.tar", "one"),
        ("c.json", &config),
        ("manifest.json", &saved),
        // Docker writes this as well, where it has room for one.
        ("oci-layout", "{}"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive
            .append_data(&mut header, name, bytes.as_bytes())
            .unwrap();
    }
    archive.into_inner().unwrap().flush().unwrap();
    let store = store(&directory.path().join("store"));
    let loaded = load(&store, &path).unwrap();
    let names: Vec<_> = loaded.iter().map(|image| image.name()).collect();
    assert_eq!(names, ["docker.io/library/x:1", "docker.io/library/y:2"]);
}

#[test]
fn what_is_no_archive_of_images_is_not_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive.tar");
    tar::Builder::new(fs::File::create(&path).unwrap())
        .into_inner()
        .unwrap();
    let store = store(&directory.path().join("store"));
    let message = load(&store, &path).unwrap_err().to_string();
    assert!(message.contains("archive.tar"), "{message}");
}

#[test]
fn layers_in_an_archive_of_docker_s_may_be_compressed_and_linked() {
    let diff_ids = [Digest::of(b"one"), Digest::of(b"two"), Digest::of(b"one")];
    let config = json!({"os": "linux", "architecture": Platform::of_host().architecture,
        "rootfs": {"diff_ids": diff_ids}})
    .to_string();
    let saved = json!([{"Config": "c.json", "RepoTags": ["x:1"],
        "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"]}])
    .to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive.tar");
    let mut archive = tar::Builder::new(fs::File::create(&path).unwrap());
    let (one, two) = (b"one".to_vec(), gzip(b"two"));
    for (name, bytes) in [
        ("a/layer.tar", &one),
        ("b/layer.tar", &two),
        ("c.json", &config.into_bytes()),
        ("manifest.json", &saved.into_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive
        .append_link(&mut header, "c/layer.tar", "../a/layer.tar")
        .unwrap();
    archive.into_inner().unwrap().flush().unwrap();
    let store = store(&directory.path().join("store"));
    let stored = import(&store, &format!("docker-archive:{}:x:1", path.display())).unwrap();
    assert_eq!(stored.name(), "docker.io/library/x:1");
    let layers: Vec<_> = stored
        .layers()
        .map(|layer| fs::read(layer).unwrap())
        .collect();
    assert_eq!(layers, [one.clone(), two, one]);
    let message = import(&store, &format!("docker-archive:{}:y", path.display()))
        .unwrap_err()
        .to_string();
    assert!(message.contains("x:1"), "{message}");
}

#[test]
fn an_image_is_made_of_an_older_one_and_a_new_layer() {
    let fake = Fake::new();
    fake.add("latest", &Sample::gzip(&[b"base"]));
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let base = get(&store, &fake.name("x")).unwrap();
    let copy = Copy::default();
    let archive = noise(200_000, 3);
    let new = store
        .add_layer(base.hold(), &mut &archive[..], &copy)
        .unwrap();
    assert_eq!(new.diff_id, Digest::of(&archive));
    let raw = store.inspect(base.name(), &Platform::of_host()).unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&raw.config).unwrap();
    document["config"]["Cmd"] = json!(["/new"]);
    let layers = [base.blobs(), &[new]].concat();
    let name = "made/here:1".parse().unwrap();
    let digest = store
        .commit(base.hold(), document.clone(), &layers, &name)
        .unwrap();
    drop(base);

    assert_eq!(store.prune().unwrap().files, 0);
    let made = get(&store, &Image::Registry(name.clone())).unwrap();
    assert_eq!((made.digest(), made.layers().len()), (digest, 2));
    assert_eq!(made.config().cmd, ["/new"]);

    let unknown = image::Layer {
        diff_id: Digest::of(b"unknown"),
        ..layers[0].clone()
    };
    let hold = store.hold().unwrap();
    assert!(matches!(
        store.commit(&hold, document, &[unknown], &name),
        Err(Error::Missing(_))
    ));
    assert!(store.commit(&hold, json!([]), &layers, &name).is_err());
}

#[test]
fn a_name_more_is_the_same_image() {
    let fake = Fake::new();
    fake.add("latest", &Sample::new(&[b"x"]));
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    get(&store, &fake.name("x")).unwrap();
    let (old, host) = (fake.name("x").to_string(), Platform::of_host());
    store.tag(&old, &"y".parse().unwrap()).unwrap();
    assert_eq!(
        store.inspect("y", &host).unwrap(),
        store.inspect(&old, &host).unwrap()
    );
    let list = store.list().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(
        (list[0].digest, list[0].id, list[0].size),
        (list[1].digest, list[1].id, 1)
    );
    assert!(
        list.iter()
            .any(|image| image.name == "docker.io/library/y:latest")
    );
    store.remove(&old).unwrap();
    assert!(store.prune().unwrap().files == 0 && store.inspect("y", &host).is_ok());
    for unknown in [
        store.tag(&old, &"z".parse().unwrap()),
        store.inspect(&old, &host).map(|_| ()),
    ] {
        assert!(matches!(unknown, Err(Error::Missing(_))));
    }
}

#[test]
fn what_is_no_image_in_a_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    for source in ["host", "busybox", "/", "alpine"] {
        let error = import(&store, source).unwrap_err();
        assert!(matches!(error, Error::NotKept(_)), "{error}");
    }
}
