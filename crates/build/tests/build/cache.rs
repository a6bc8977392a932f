use std::{
    fs::File,
    time::{Duration, SystemTime},
};

use build::{Built, Options};

use crate::fake::{Directory, Fake, options, worker};

/// Builds, and says how many commands and layers were new.
fn build(directory: &Directory, worker: &mut Fake, options: &Options) -> (Built, usize, usize) {
    let (runs, stored) = (worker.runs.len(), worker.stored);
    let built = directory.build(worker, options).unwrap();
    (built, worker.runs.len() - runs, worker.stored - stored)
}

fn directory() -> Directory {
    let text = "FROM base\nRUN put /one 1\nCOPY src /src\nRUN put /two 2\nWORKDIR /w\nRUN nothing";
    Directory::new(&[
        ("Dockerfile", text),
        ("src/a", "a"),
        ("src/b/c", "c"),
        (".dockerignore", "src/x"),
    ])
}

fn touch(directory: &Directory, path: &str) {
    let file = File::options()
        .append(true)
        .open(directory.0.path().join(path))
        .unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5))
        .unwrap();
}

#[test]
fn what_has_not_changed_is_not_done_again() {
    let (directory, mut worker) = (directory(), worker());
    let (first, ..) = build(&directory, &mut worker, &options(&[]));
    let (second, runs, stored) = build(&directory, &mut worker, &options(&[]));
    assert_eq!((runs, stored), (0, 0));
    assert_eq!(first, second);
    assert_eq!(
        worker.begun.iter().filter(|line| *line == "cached").count(),
        5
    );
    let fresh = Options {
        no_cache: true,
        ..options(&[])
    };
    let (third, runs, stored) = build(&directory, &mut worker, &fresh);
    assert_eq!((runs, stored), (3, 2));
    assert_eq!(third, first);
}

#[test]
fn changed_contents_are_missed_from_there_on() {
    let (directory, mut worker) = (directory(), worker());
    build(&directory, &mut worker, &options(&[]));
    directory.write("src/b/c", b"changed");
    let (built, runs, stored) = build(&directory, &mut worker, &options(&[]));
    assert_eq!((runs, stored), (2, 2));
    assert_eq!(worker.files(&built.layers).text("src/b/c"), "changed");
    // A new name, and another mode, are changes too.
    directory.write("src/new", b"");
    assert_eq!(build(&directory, &mut worker, &options(&[])).1, 2);
    directory.mode("src/new", 0o755);
    assert_eq!(build(&directory, &mut worker, &options(&[])).1, 2);
}

#[test]
fn times_and_what_is_hidden_are_no_changes() {
    let (directory, mut worker) = (directory(), worker());
    build(&directory, &mut worker, &options(&[]));
    touch(&directory, "src/a");
    directory.write("src/x", b"hidden");
    directory.write("beside", b"not copied");
    let (_, runs, stored) = build(&directory, &mut worker, &options(&[]));
    assert_eq!((runs, stored), (0, 0));
}

#[test]
fn an_argument_is_missed_from_its_declaration_on_and_a_proxy_never() {
    let text = "FROM base\nRUN put /one 1\nARG V=1\nRUN put /two 2";
    let directory = Directory::new(&[("Dockerfile", text)]);
    let mut worker = worker();
    build(&directory, &mut worker, &options(&[]));
    assert_eq!(build(&directory, &mut worker, &options(&[("V", "2")])).1, 1);
    assert_eq!(build(&directory, &mut worker, &options(&[("V", "1")])).1, 0);
    assert_eq!(
        build(&directory, &mut worker, &options(&[("no_proxy", "x")])).1,
        0
    );
}

#[test]
fn what_another_stage_left_unchanged_is_in_the_cache() {
    let text = |more: &str| {
        format!("FROM base AS a\n{more}RUN put /f same\nFROM base\nCOPY --from=a /f /f")
    };
    let directory = Directory::new(&[("Dockerfile", &text(""))]);
    let mut worker = worker();
    build(&directory, &mut worker, &options(&[]));
    directory.write("Dockerfile", text("RUN put /g new\n").as_bytes());
    let (_, runs, stored) = build(&directory, &mut worker, &options(&[]));
    assert_eq!((runs, stored), (2, 0));
}

#[test]
fn what_is_mounted_from_the_context_counts() {
    let text = "FROM base\nRUN --mount=target=/c,source=src make";
    let directory = Directory::new(&[("Dockerfile", text), ("src/a", "a"), ("other", "")]);
    let mut worker = worker();
    build(&directory, &mut worker, &options(&[]));
    directory.write("other", b"x");
    assert_eq!(build(&directory, &mut worker, &options(&[])).1, 0);
    directory.write("src/a", b"b");
    assert_eq!(build(&directory, &mut worker, &options(&[])).1, 1);
}
