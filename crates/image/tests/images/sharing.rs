//! One store for several threads and processes, some of which die.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use image::{Error, Store};

use crate::rig::{End, Fake, Sample, counter, files, get, noise, store};

/// The example `pull`, which cargo builds with the tests.
fn program() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/pull")
}

fn command(root: &Path, image: &spec::Image) -> Command {
    let mut command = Command::new(program());
    command.arg(root).arg(image.to_string());
    command
        .env("XDG_CONFIG_HOME", "/nowhere")
        .env("DOCKER_CONFIG", "/nowhere");
    command
        .env_remove("REGISTRY_AUTH_FILE")
        .env_remove("XDG_RUNTIME_DIR");
    command
}

fn start(root: &Path, image: &spec::Image) -> Child {
    let mut command = command(root, image);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn succeeded(output: &Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A registry whose layer comes only after `go`.
fn slow(image: &Sample) -> (Fake, Arc<AtomicBool>) {
    let go = Arc::new(AtomicBool::new(false));
    let (wait, target) = (go.clone(), image.layer(0).to_string());
    let fake = Fake::with(move |request, _| {
        while request.path.ends_with(&target) && !wait.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        None
    });
    fake.add("latest", image);
    (fake, go)
}

/// Until somebody says so on its standard output.
fn wait_for(child: &mut Child, word: &str) {
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(word)), "{word}");
}

#[test]
fn threads_that_want_the_same_image_fetch_it_once() {
    let fake = Fake::new();
    let image = Sample::new(&[&noise(200_000, 1), &noise(100_000, 2)]);
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                assert_eq!(
                    get(&store, &fake.name("x")).unwrap().digest(),
                    image.digest()
                )
            });
        }
    });
    assert_eq!(fake.blobs_asked(), 3);
}

#[test]
fn a_process_waits_for_what_another_is_fetching_and_takes_it() {
    let image = Sample::new(&[&noise(200_000, 3)]);
    let (fake, go) = slow(&image);
    let root = tempfile::tempdir().unwrap();
    let mut first = start(root.path(), &fake.name("x"));
    wait_for(&mut first, "Download");
    let mut second = start(root.path(), &fake.name("x"));
    wait_for(&mut second, "waiting");
    go.store(true, Ordering::Relaxed);
    succeeded(&first.wait_with_output().unwrap());
    succeeded(&second.wait_with_output().unwrap());
    assert_eq!(fake.blobs_asked(), 2);
}

/// A registry that sends the first `sent` bytes of a layer and then nothing, the first time.
fn interrupted(image: &Sample, sent: usize) -> Fake {
    let (target, count) = (image.layer(0).to_string(), counter());
    let fake = Fake::with(move |request, contents| {
        let first = request.path.ends_with(&target) && count() == 0;
        first.then(|| contents.answer(request).end(End::Stall(sent)))
    });
    fake.add("latest", image);
    fake
}

/// A store in which a process was killed while it fetched that layer.
fn killed(fake: &Fake, image: &Sample, sent: u64) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let partial = root
        .path()
        .join(format!("blobs/sha256/{}.partial", image.layer(0).hex()));
    let mut child = start(root.path(), &fake.name("x"));
    while fs::metadata(&partial).map_or(0, |partial| partial.len()) < sent {
        assert!(child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    (root, partial)
}

#[test]
fn what_a_killed_process_has_fetched_is_not_fetched_again() {
    let image = Sample::new(&[&noise(200_000, 4)]);
    let fake = interrupted(&image, 150_000);
    let (root, partial) = killed(&fake, &image, 150_000);
    fake.log();
    get(&store(root.path()), &fake.name("x")).unwrap();
    assert!(
        fake.log()
            .iter()
            .any(|asked| asked.header("range") == Some("bytes=150000-"))
    );
    assert!(!partial.exists());
}

#[test]
fn what_a_killed_process_has_left_is_pruned() {
    let image = Sample::new(&[&noise(200_000, 5)]);
    let fake = interrupted(&image, 150_000);
    let (root, _) = killed(&fake, &image, 150_000);
    let store = store(root.path());
    assert!(store.list().unwrap().is_empty());
    let pruned = store.prune().unwrap();
    assert!(pruned.bytes >= 150_000, "{pruned:?}");
    assert_eq!(
        files(&root.path().join("blobs/sha256")),
        Vec::<String>::new()
    );
}

#[test]
fn a_full_disk_is_said_with_the_path_and_what_was_needed() {
    let fake = Fake::new();
    fake.add("latest", &Sample::new(&[&noise(200_000, 6)]));
    let root = tempfile::tempdir().unwrap();
    // A limit of sizes that is no signal is the disk that every user can fill: 64 KiB in blocks of 512.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$@\"", "sh"]);
    shell
        .arg(program())
        .arg(root.path())
        .arg(fake.name("x").to_string());
    let output = shell
        .env("XDG_CONFIG_HOME", "/nowhere")
        .env("DOCKER_CONFIG", "/nowhere")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for word in ["no room for", "blobs/sha256", "bytes more were needed"] {
        assert!(words.contains(word), "{words}");
    }
    get(&store(root.path()), &fake.name("x")).unwrap();
}

#[test]
fn a_store_of_another_version_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    store(root.path());
    for version in ["0", "2\n", "\x1b[2J"] {
        fs::write(root.path().join("version"), version).unwrap();
        let error = Store::open(root.path()).unwrap_err();
        assert!(
            matches!(error, Error::StoreVersion { known: 1, .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains("remove that directory"),
            "{error}"
        );
        assert!(!error.to_string().contains('\x1b'));
    }
    fs::remove_file(root.path().join("version")).unwrap();
    assert!(matches!(
        Store::open(root.path()),
        Err(Error::StoreVersion { .. })
    ));
}

#[test]
fn what_is_used_is_not_pruned_and_what_has_no_name_is() {
    let fake = Fake::new();
    let (one, two) = (
        Sample::new(&[b"base", b"one"]),
        Sample::new(&[b"base", b"two"]),
    );
    fake.add("1", &one);
    fake.add("2", &two);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let stored = get(&store, &fake.name("x:1")).unwrap();
    get(&store, &fake.name("x:2")).unwrap();
    assert!(matches!(store.prune(), Err(Error::Busy { .. })));
    drop(stored);
    assert_eq!(store.prune().unwrap().files, 0);

    store.remove(&fake.name("x:2").to_string()).unwrap();
    // Its manifest, its configuration, one layer twice; the base stays.
    assert_eq!(store.prune().unwrap().files, 4);
    fake.log();
    get(&store, &fake.name("x:1")).unwrap();
    assert!(fake.log().is_empty());
    let missing = store.remove(&fake.name("x:2").to_string());
    assert!(matches!(missing, Err(Error::Missing(_))));
}

#[test]
fn an_image_whose_parts_are_gone_is_made_whole_again() {
    let fake = Fake::new();
    let image = Sample::new(&[b"one", b"two"]);
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    get(&store, &fake.name("x")).unwrap();
    fs::remove_file(root.path().join("layers/sha256").join(image.layer(0).hex())).unwrap();
    fs::remove_file(root.path().join("blobs/sha256").join(image.layer(1).hex())).unwrap();
    fs::remove_file(root.path().join("blobs/sha256").join(image.digest().hex())).unwrap();
    fake.log();
    let stored = get(&store, &fake.name("x")).unwrap();
    assert_eq!(stored.layers().filter(|layer| layer.exists()).count(), 2);
    assert_eq!(fake.blobs_asked(), 1);
}

#[test]
fn documents_that_are_damaged_are_fetched_again() {
    let fake = Fake::new();
    let image = Sample::new(&[b"one"]);
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    for digest in [image.digest(), image::Digest::of(&image.config)] {
        get(&store, &fake.name("x")).unwrap();
        let path = root.path().join("blobs/sha256").join(digest.hex());
        fs::write(&path, "damaged").unwrap();
        get(&store, &fake.name("x")).unwrap();
        assert_eq!(image::Digest::of(&fs::read(&path).unwrap()), digest);
        fs::write(&path, "damaged").unwrap();
        assert!(store.list().unwrap().is_empty());
        // What cannot be read is forgotten, and what belonged to it is removed.
        assert_eq!(store.prune().unwrap().files, 4);
    }
}
