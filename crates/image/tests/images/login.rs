//! Who asks, and who learns it.

use std::{fs, path::Path};

use image::{Credentials, Error, Store};

use crate::rig::{Contents, Fake, Reply, Request, Sample, get, hasty, refusal, store};

/// A registry that wants a token, which it gives out itself.
fn with_tokens(allowed: &'static str) -> Fake {
    Fake::with(move |request, _| {
        if request.path == "/token" {
            let good = allowed.is_empty() || shows(request, allowed);
            return Some(match good {
                true => Reply::new(200, r#"{"token":"good"}"#),
                false => Reply::new(401, ""),
            });
        }
        let host = request.header("host").unwrap();
        (request.header("authorization") != Some("Bearer good")).then(|| {
            Reply::new(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#,
            )
            .header(
                "WWW-Authenticate",
                format!(
                    r#"Bearer realm="http://{host}/token",service="me",scope="repository:x:pull""#
                ),
            )
        })
    })
}

fn shows(request: &Request, secret: &str) -> bool {
    request.header("authorization") == Some(secret)
        || String::from_utf8_lossy(&request.body).contains(secret)
}

/// user:secret.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn logged_in(root: &Path, fake: &Fake, how: &str) -> Store {
    let file = root.join("config.json");
    fs::write(&file, format!(r#"{{"auths":{{"{}":{how}}}}}"#, fake.host)).unwrap();
    let registries = hasty().with_credentials(Credentials::in_files(vec![file]));
    Store::open(root.join("store"))
        .unwrap()
        .with_registries(registries)
}

fn log_in(root: &Path, fake: &Fake) -> Store {
    logged_in(root, fake, r#"{"auth":"dXNlcjpzZWNyZXQ="}"#)
}

#[test]
fn a_token_is_fetched_once_and_used_for_everything() {
    let fake = with_tokens("");
    fake.add("latest", &Sample::new(&[b"one", b"two"]));
    let root = tempfile::tempdir().unwrap();
    get(&store(root.path()), &fake.name("x")).unwrap();
    let log = fake.log();
    let tokens: Vec<_> = log.iter().filter(|asked| asked.path == "/token").collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].query, "service=me&scope=repository%3Ax%3Apull");
    assert!(
        log.iter()
            .filter(|asked| asked.is_blob())
            .all(|asked| shows(asked, "Bearer good"))
    );
}

#[test]
fn a_name_and_a_password_are_shown_to_who_gives_out_tokens_and_to_nobody_else() {
    let fake = with_tokens(BASIC);
    fake.add("latest", &Sample::new(&[b"x"]));
    let root = tempfile::tempdir().unwrap();
    get(&log_in(root.path(), &fake), &fake.name("x")).unwrap();
    let log = fake.log();
    assert!(
        log.iter()
            .all(|asked| (asked.path == "/token") == shows(asked, BASIC))
    );
}

#[test]
fn an_identity_token_is_exchanged_for_another() {
    let fake = with_tokens("refresh_token=iden%20tity");
    fake.add("latest", &Sample::new(&[b"x"]));
    let root = tempfile::tempdir().unwrap();
    let store = logged_in(root.path(), &fake, r#"{"identitytoken":"iden tity"}"#);
    get(&store, &fake.name("x")).unwrap();
}

#[test]
fn a_registry_without_tokens_is_shown_the_password() {
    let fake = Fake::with(|request, _| {
        (!shows(request, BASIC))
            .then(|| Reply::new(401, "").header("WWW-Authenticate", r#"Basic realm="x""#))
    });
    fake.add("latest", &Sample::new(&[b"x"]));
    let root = tempfile::tempdir().unwrap();
    get(&log_in(root.path(), &fake), &fake.name("x")).unwrap();
}

#[test]
fn whoever_is_nobody_is_told_to_log_in() {
    for fake in [
        with_tokens(BASIC),
        Fake::with(|_, _| Some(Reply::new(401, ""))),
    ] {
        let error = refusal(&fake, "x/y");
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
        let message = error.to_string();
        for word in ["x/y", "anybody", &format!("`docker login {}`", fake.host)] {
            assert!(message.contains(word), "{message}");
        }
    }
}

#[test]
fn whoever_is_not_believed_is_told_to_log_in_as_well() {
    let fake = with_tokens("Basic of somebody else");
    let root = tempfile::tempdir().unwrap();
    let error = get(&log_in(root.path(), &fake), &fake.name("x")).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(
        error.to_string().contains("the user who is logged in"),
        "{error}"
    );
}

#[test]
fn whoever_may_not_is_told_so_in_the_registry_s_words() {
    let words = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"pay \\u001b[31mfirst\"}]}";
    let fake = Fake::with(move |request, _| {
        request
            .path
            .contains("/manifests/")
            .then(|| Reply::new(403, words))
    });
    let error = refusal(&fake, "x/y");
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("x/y") && message.contains("pay  [31mfirst"),
        "{message:?}"
    );
}

/// Where a registry that gives its blobs out elsewhere sends us.
fn elsewhere(request: &Request, _: &Contents, other: &str) -> Option<Reply> {
    if !shows(request, BASIC) {
        return Some(Reply::new(401, "").header("WWW-Authenticate", "Basic"));
    }
    let location = format!("http://{other}{}", request.path);
    request
        .is_blob()
        .then(|| Reply::new(307, "").header("Location", location))
}

#[test]
fn who_asks_is_not_told_to_whom_a_registry_sends_us() {
    let other = Fake::new();
    let image = Sample::new(&[b"x"]);
    other.add("latest", &image);
    let host = other.host.clone();
    let fake = Fake::with(move |request, contents| elsewhere(request, contents, &host));
    fake.add("latest", &image);
    let root = tempfile::tempdir().unwrap();
    get(&log_in(root.path(), &fake), &fake.name("x")).unwrap();
    let log = other.log();
    assert_eq!(log.len(), 2);
    assert!(
        log.iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[test]
fn to_whom_a_registry_sends_us_cannot_ask_for_a_password() {
    let thief = Fake::with(|request, _| {
        let host = request.header("host").unwrap();
        Some(Reply::new(401, "").header(
            "WWW-Authenticate",
            format!(r#"Bearer realm="http://{host}/token""#),
        ))
    });
    let host = thief.host.clone();
    let fake = Fake::with(move |request, contents| elsewhere(request, contents, &host));
    fake.add("latest", &Sample::new(&[b"x"]));
    let root = tempfile::tempdir().unwrap();
    let error = get(&log_in(root.path(), &fake), &fake.name("x")).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    let log = thief.log();
    assert!(
        log.iter()
            .all(|asked| asked.path != "/token" && asked.header("authorization").is_none())
    );
}
