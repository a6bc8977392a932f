//! Registries that work, more or less.

use std::{fs, path::Path, sync::atomic::Ordering, time::Duration};

use image::{Error, Platform, Policy, Pull, Registries, Registry};

use crate::rig::{
    Copy, End, Fake, OCI_INDEX, OCI_MANIFEST, Reply, Retries, Sample, counter, get, hasty, noise,
    pull, refusal, store,
};

#[test]
fn an_image_is_fetched_once_and_kept() {
    let fake = Fake::new();
    let image = Sample::gzip(&[b"base", b"middle", b"top", b"base"]);
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let copy = Copy::default();
    let name = fake.name("x");
    let stored = store.get(&name, &Pull::default(), &copy, &()).unwrap();
    assert_eq!(stored.digest(), image.digest());
    assert_eq!(stored.id(), image::Digest::of(&image.config));
    assert_eq!(stored.config().cmd, ["/bin/sh"]);
    let layers: Vec<_> = stored
        .layers()
        .map(|layer| fs::read(layer).unwrap())
        .collect();
    assert_eq!(layers, image.layers);
    // The last one is the first.
    assert_eq!(copy.0.load(Ordering::Relaxed), 3);
    assert_eq!(fake.blobs_asked(), 4);
    drop(stored);

    for policy in [Policy::Missing, Policy::Never] {
        store.get(&name, &pull(policy), &copy, &()).unwrap();
        assert!(fake.log().is_empty());
    }
    store.get(&name, &pull(Policy::Always), &copy, &()).unwrap();
    let asked: Vec<_> = fake
        .log()
        .into_iter()
        .filter(|asked| asked.path.contains("x/"))
        .collect();
    assert!(
        asked.len() == 1 && asked[0].path.ends_with("/manifests/latest"),
        "{asked:?}"
    );
}

#[test]
fn a_tag_that_moved_is_noticed_when_the_registry_is_asked() {
    let fake = Fake::new();
    let (old, new) = (Sample::new(&[b"old"]), Sample::new(&[b"new"]));
    fake.add("latest", &old);
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    get(&store, &fake.name("x")).unwrap();
    fake.add("latest", &new);
    assert_eq!(get(&store, &fake.name("x")).unwrap().digest(), old.digest());
    let again = store
        .get(
            &fake.name("x"),
            &pull(Policy::Always),
            &Copy::default(),
            &(),
        )
        .unwrap();
    assert_eq!(again.digest(), new.digest());
    drop(again);
    let pinned = fake.name(&format!("x@{}", old.digest()));
    assert_eq!(get(&store, &pinned).unwrap().digest(), old.digest());
    assert_eq!(store.list().unwrap().len(), 2);
}

#[test]
fn what_is_not_here_is_not_fetched_if_it_must_not_be() {
    let fake = Fake::new();
    fake.add("latest", &Sample::new(&[b"x"]));
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let error = store
        .get(&fake.name("x"), &pull(Policy::Never), &Copy::default(), &())
        .unwrap_err();
    assert!(matches!(error, Error::Missing(_)), "{error}");
    assert!(fake.log().is_empty());
}

#[test]
fn an_image_of_docker_is_as_good() {
    let fake = Fake::new();
    let image = Sample::docker(&[b"one", b"two"]);
    fake.add("1", &image);
    let root = tempfile::tempdir().unwrap();
    let stored = get(&store(root.path()), &fake.name("x/y:1")).unwrap();
    assert_eq!(stored.digest(), image.digest());
    assert_eq!(stored.layers().len(), 2);
}

#[test]
fn of_several_platforms_the_right_one_is_fetched_and_others_are_named() {
    let fake = Fake::new();
    let cpus = ["amd64", "arm64", "riscv64"];
    let images: Vec<_> = cpus
        .iter()
        .map(|cpu| Sample::for_cpu(cpu, &[cpu.as_bytes()]))
        .collect();
    let entries: Vec<_> = images
        .iter()
        .zip(cpus)
        .map(|(image, cpu)| {
            fake.add("unused", image);
            serde_json::json!({
                "mediaType": OCI_MANIFEST, "digest": image.digest(), "size": image.manifest.len(),
                "platform": {"os": "linux", "architecture": cpu},
            })
        })
        .collect();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
    fake.add_manifest("latest", OCI_INDEX, index.as_bytes());
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let get = |platform: &str| {
        let pull = Pull {
            platform: platform.parse().unwrap(),
            policy: Policy::Missing,
        };
        store.get(&fake.name("x"), &pull, &Copy::default(), &())
    };
    assert_eq!(get("linux/arm64").unwrap().digest(), images[1].digest());
    assert_eq!(get("linux/amd64").unwrap().digest(), images[0].digest());
    assert_eq!(get("linux/arm64").unwrap().config().architecture, "arm64");
    assert_eq!(store.list().unwrap().len(), 2);
    let message = get("linux/s390x").unwrap_err().to_string();
    assert!(
        message.contains("linux/amd64, linux/arm64, linux/riscv64"),
        "{message}"
    );
    assert!(message.contains("--platform"), "{message}");
}

#[test]
fn an_image_for_another_cpu_alone_is_refused() {
    let fake = Fake::new();
    fake.add("latest", &Sample::for_cpu("s390x", &[b"x"]));
    let error = refusal(&fake, "x");
    assert!(
        matches!(&error, Error::NoPlatform { offered, .. } if offered == "linux/s390x"),
        "{error}"
    );
}

#[test]
fn what_is_not_there_is_said_to_be_missing_by_name() {
    let error = refusal(&Fake::new(), "x/y:3");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("x/y:3") && message.contains("manifest unknown"),
        "{message}"
    );
}

#[test]
fn a_registry_that_is_busy_is_asked_again_when_it_wants_to_be() {
    let count = counter();
    let fake = Fake::with(move |request, _| {
        let busy = request.is_blob() && count() == 0;
        busy.then(|| Reply::new(429, "").header("Retry-After", "3600"))
    });
    fake.add("latest", &Sample::new(&[b"x"]));
    let root = tempfile::tempdir().unwrap();
    let retries = Retries::default();
    store(root.path())
        .get(
            &fake.name("x"),
            &Pull::default(),
            &Copy::default(),
            &retries,
        )
        .unwrap();
    let retries = retries.0.into_inner().unwrap();
    // As long as it wants would be longer than we wait.
    assert_eq!(retries.len(), 1);
    assert_eq!(retries[0].1, Duration::from_millis(5));
    assert!(retries[0].0.contains("429"), "{retries:?}");
}

#[test]
fn a_registry_that_fails_for_a_while_is_asked_again_and_one_that_always_fails_is_not() {
    let count = counter();
    let fake = Fake::with(move |request, _| {
        (request.path.contains("/manifests/") && count() < 2).then(|| Reply::new(503, ""))
    });
    fake.add("latest", &Sample::new(&[b"x"]));
    let root = tempfile::tempdir().unwrap();
    get(&store(root.path()), &fake.name("x")).unwrap();

    let dead = Fake::with(|request, _| {
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::new(500, ""))
    });
    let error = refusal(&dead, "x");
    assert!(
        matches!(error, Error::Status { status: 500, .. }),
        "{error}"
    );
    assert_eq!(
        dead.log()
            .iter()
            .filter(|asked| asked.path.contains("/manifests/"))
            .count(),
        3
    );
}

#[test]
fn a_connection_that_breaks_is_made_again_and_goes_on_where_it_was() {
    let image = Sample::new(&[&noise(300_000, 1)]);
    let target = format!("/v2/x/blobs/{}", image.layer(0));
    let count = counter();
    let fake = Fake::with(move |request, contents| {
        let answer = || contents.answer(request);
        match request.path == target {
            true => match count() {
                0 => Some(answer().end(End::Cut(100_000))),
                1 => Some(answer().end(End::Cut(50_000))),
                _ => None,
            },
            false => None,
        }
    });
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    let stored = get(&store(root.path()), &fake.name("x")).unwrap();
    assert_eq!(
        fs::read(stored.layers().next().unwrap()).unwrap(),
        image.layers[0]
    );
    let ranges: Vec<_> = fake
        .log()
        .iter()
        .filter(|request| request.path.ends_with(&image.layer(0).to_string()))
        .map(|request| request.header("range").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(ranges, ["", "bytes=100000-", "bytes=150000-"]);
}

#[test]
fn a_registry_that_cannot_go_on_in_the_middle_begins_anew() {
    let image = Sample::new(&[&noise(200_000, 2)]);
    let target = format!("/v2/x/blobs/{}", image.layer(0));
    let layer = image.layers[0].clone();
    let count = counter();
    let fake = Fake::with(move |request, _| {
        let whole = || Reply::new(200, layer.clone());
        match request.path == target {
            true if count() == 0 => Some(whole().end(End::Cut(100_000))),
            true => Some(whole()),
            false => None,
        }
    });
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    let stored = get(&store(root.path()), &fake.name("x")).unwrap();
    assert_eq!(
        fs::read(stored.layers().next().unwrap()).unwrap(),
        image.layers[0]
    );
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_if_it_fails() {
    let (mirror, broken, home) = (
        Fake::new(),
        Fake::with(|_, _| Some(Reply::new(403, ""))),
        Fake::new(),
    );
    let image = Sample::new(&[b"x"]);
    home.add("latest", &image);
    let registries = |mirrors: &[&Fake]| {
        let mut registries = Registries::new(vec![Registry {
            name: home.host.clone(),
            mirrors: mirrors
                .iter()
                .map(|mirror| format!("{}/hub", mirror.host))
                .collect(),
            insecure: false,
            ca: None,
        }])
        .unwrap();
        registries.patience = hasty().patience;
        registries
    };
    let root = tempfile::tempdir().unwrap();
    let first = store(root.path()).with_registries(registries(&[&broken, &mirror]));
    get(&first, &home.name("x")).unwrap();
    assert!(
        broken
            .log()
            .iter()
            .any(|asked| asked.path == "/v2/hub/x/manifests/latest")
    );
    assert!(
        mirror
            .log()
            .iter()
            .any(|asked| asked.path == "/v2/hub/x/manifests/latest")
    );
    assert_eq!(home.blobs_asked(), 2);

    mirror.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    get(
        &store(root.path()).with_registries(registries(&[&mirror])),
        &home.name("x"),
    )
    .unwrap();
    assert!(home.log().is_empty());
}

#[test]
fn what_was_sent_is_what_others_get_and_is_not_sent_twice() {
    let (from, to) = (Fake::new(), Fake::new());
    let image = Sample::gzip(&[&noise(100_000, 3), b"two"]);
    from.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    let first = store(root.path());
    get(&first, &from.name("x")).unwrap();
    let target = format!("{}/a/b:c", to.host).parse().unwrap();
    let push = || {
        first
            .push(
                &from.name("x").to_string(),
                &Platform::of_host(),
                &target,
                &(),
            )
            .unwrap()
    };
    assert_eq!(push(), image.digest());
    let sent = |fake: &Fake| {
        fake.log()
            .iter()
            .filter(|asked| asked.path == "/upload")
            .count()
    };
    assert_eq!(sent(&to), 3);
    push();
    assert_eq!(sent(&to), 0);
    let elsewhere = tempfile::tempdir().unwrap();
    let stored = get(&store(elsewhere.path()), &to.name("a/b:c")).unwrap();
    assert_eq!(stored.digest(), image.digest());
}

#[test]
fn what_a_mirror_made_up_is_fetched_from_the_registry() {
    let home = Fake::new();
    let image = Sample::new(&[&noise(100_000, 8)]);
    home.add("latest", &image);
    // One makes up all of it, the other its beginning.
    for end in [End::Whole, End::Cut(50_000)] {
        let target = image.layer(0).to_string();
        let mirror = Fake::with(move |request, _| {
            let made_up = Reply::new(200, noise(100_000, 9));
            let asked = request.path.ends_with(&target);
            let first = asked && request.header("range").is_none();
            match asked && !first {
                true => Some(Reply::new(404, "")),
                false => first.then(|| made_up.end(end)),
            }
        });
        mirror.add("latest", &image);
        let mut registries = Registries::new(vec![Registry {
            name: home.host.clone(),
            mirrors: vec![mirror.host.clone()],
            insecure: false,
            ca: None,
        }])
        .unwrap();
        registries.patience = hasty().patience;
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path()).with_registries(registries);
        let stored = get(&store, &home.name("x")).unwrap();
        assert_eq!(
            fs::read(stored.layers().next().unwrap()).unwrap(),
            image.layers[0]
        );
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_good_for_insecure_registries_alone() {
    let fake = Fake::encrypted();
    fake.add("latest", &Sample::new(&[b"x"]));
    let name = fake.name("x");
    let root = tempfile::tempdir().unwrap();
    let error = get(&store(root.path()), &name).unwrap_err();
    assert!(fake.log().is_empty(), "{error}");

    let mut registries = Registries::new(vec![Registry {
        name: fake.host.clone(),
        mirrors: Vec::new(),
        insecure: true,
        ca: None,
    }])
    .unwrap();
    registries.patience = hasty().patience;
    let lax = store(root.path()).with_registries(registries);
    get(&lax, &name).unwrap();
    assert_eq!(fake.blobs_asked(), 2);
}

#[test]
fn a_registry_is_vouched_for_by_those_that_the_user_names_alone() {
    let fake = Fake::encrypted();
    fake.add("latest", &Sample::new(&[b"x"]));
    let directory = tempfile::tempdir().unwrap();
    let with = |ca: &str| {
        let mut registries = Registries::new(vec![Registry {
            name: fake.host.clone(),
            mirrors: Vec::new(),
            insecure: false,
            ca: Some(directory.path().join(ca)),
        }])?;
        registries.patience = hasty().patience;
        Ok::<_, String>(store(&directory.path().join("store")).with_registries(registries))
    };
    let localhost = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/localhost");
    for name in ["certificate.pem", "other.pem"] {
        fs::copy(localhost.join(name), directory.path().join(name)).unwrap();
    }
    fs::write(directory.path().join("empty.pem"), "").unwrap();
    for (wrong, word) in [("no-such.pem", "No such file"), ("empty.pem", "write PEM")] {
        let error = with(wrong).unwrap_err();
        assert!(error.contains(word) && error.contains(wrong), "{error}");
    }
    let error = get(&with("other.pem").unwrap(), &fake.name("x")).unwrap_err();
    assert!(fake.log().is_empty(), "{error}");
    get(&with("certificate.pem").unwrap(), &fake.name("x")).unwrap();
    assert_eq!(fake.blobs_asked(), 2);
}
