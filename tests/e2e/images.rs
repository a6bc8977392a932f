//! Images of the Open Container Initiative as machines.

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
};

use serde_json::json;
use tar::EntryType;

use crate::{
    layout::{Layer, Layout},
    support::{fails, programs, stdout, stdout_of, tests},
};

tests![
    an_image_is_run_as_its_configuration_says,
    arguments_take_the_place_of_the_image_s_command,
    owners_modes_links_and_devices_are_the_image_s,
    a_layer_hides_what_it_removes_and_replaces,
    what_is_written_is_gone_with_the_machine,
    what_is_written_is_kept_under_a_name_and_becomes_an_image,
    images_are_listed_and_removed,
    the_root_of_an_image_is_exported_and_an_archive_is_loaded,
    an_image_for_another_cpu_is_refused,
    a_layer_that_is_not_what_its_digest_says_is_refused,
    an_image_that_is_not_there_is_named,
    an_init_that_is_not_there_is_named,
];

/// Runs a shell's script in an image.
fn sh(layout: &Layout, script: &str) -> String {
    stdout(&[
        "--network",
        "none",
        &layout.name(),
        "--",
        "sh",
        "-c",
        script,
    ])
}

/// Runs `crumble image` with these arguments.
fn image(arguments: &[&str]) -> Command {
    let mut command = Command::new(programs().join("crumble"));
    command.arg("image").args(arguments);
    command
}

fn an_image_is_run_as_its_configuration_says() {
    let layout = Layout::new(
        [Layer::busybox()],
        &json!({
            "Entrypoint": ["sh", "-c"],
            "Cmd": ["echo $GREETING; id -u; pwd; echo $HOME; echo $PATH"],
            "Env": ["PATH=/bin", "GREETING=hello there"],
            "User": "somebody",
            "WorkingDir": "/made/for/it",
        }),
    );
    let text = stdout(&["--network", "none", &layout.name()]);
    assert_eq!(text, "hello there\n1000\n/made/for/it\n/home\n/bin\n");
    let arguments = [
        "--network",
        "none",
        "--user",
        "0",
        "--env",
        "GREETING=bye",
        "--workdir",
        "/var",
    ];
    let text = stdout(&[&arguments[..], &[&layout.name()]].concat());
    assert_eq!(text, "bye\n0\n/var\n/root\n/bin\n");
}

fn arguments_take_the_place_of_the_image_s_command() {
    let config = json!({ "Entrypoint": ["cat"], "Cmd": ["/no/such"] });
    let layout = Layout::new([Layer::busybox()], &config);
    let name = layout.name();
    let text = stdout(&["--network", "none", &name, "--", "/etc/passwd"]);
    assert!(text.starts_with("root:"), "{text}");
    let other = ["--network", "none", "--entrypoint", "id", &name, "--", "-u"];
    assert_eq!(stdout(&other), "0\n");
}

fn owners_modes_links_and_devices_are_the_image_s() {
    let layer = Layer::busybox()
        .entry(EntryType::Regular, "owned", (0o4751, 12345), "", b"content")
        .entry(EntryType::Link, "other-name", (0, 0), "owned", b"")
        .entry(EntryType::Char, "null", (0o666, 7), "", b"")
        .entry(EntryType::Fifo, "fifo", (0o600, 0), "", b"")
        .symlink("link", "owned");
    let layout = Layout::new([layer], &json!({}));
    let text = sh(
        &layout,
        "stat -c '%u %g %a %h' owned; cat other-name; echo; stat -c '%F %t %T %u' null; \
         stat -c %F fifo; cat link; echo > null",
    );
    assert_eq!(
        text,
        "12345 12345 4751 2\ncontent\ncharacter special file 1 3 7\nfifo\ncontent"
    );
}

fn a_layer_hides_what_it_removes_and_replaces() {
    let base = Layer::busybox()
        .file("a/kept", 0o644, "base\n")
        .file("a/removed", 0o644, "base\n")
        .file("a/replaced", 0o644, "base\n")
        .file("b/below", 0o644, "base\n")
        .directory("c", 0o700);
    let top = Layer::new()
        .removes("a/removed")
        .file("a/replaced", 0o644, "top\n")
        .directory("b", 0o755)
        .file("b/.wh..wh..opq", 0, "")
        .file("b/above", 0o644, "top\n")
        .removes("c");
    let layout = Layout::new([base, top], &json!({}));
    let text = sh(&layout, "cd /; ls -d a/* b/* c; cat a/replaced; :");
    assert_eq!(text, "a/kept\na/replaced\nb/above\ntop\n");
}

fn what_is_written_is_gone_with_the_machine() {
    let layout = Layout::new([Layer::busybox()], &json!({}));
    let script = "test ! -e /new && touch /new /etc/passwd && ls /new";
    for _ in 0..2 {
        assert_eq!(sh(&layout, script), "/new\n");
    }
}

/// Runs any `crumble` command to its end, which has to be a good one.
fn crumble(arguments: &[&str]) -> String {
    let mut command = Command::new(programs().join("crumble"));
    command.args(arguments);
    stdout_of(command)
}

fn what_is_written_is_kept_under_a_name_and_becomes_an_image() {
    let layout = Layout::new([Layer::busybox()], &json!({}));
    let image = layout.name();
    let named = ["--network", "none", "--name", "of-the-tests"];
    let with = |image: &str, script: &str| {
        let command = [image, "--", "sh", "-c", script];
        stdout(&[&named[..], &command].concat())
    };
    let first = "test ! -e /kept && echo one > /kept && echo two > /etc/passwd && cat /kept";
    assert_eq!(with(&image, first), "one\n");
    assert_eq!(with(&image, "cat /kept /etc/passwd"), "one\ntwo\n");
    let words = ["of-the-tests", "crumble rm"];
    fails(
        &[&named[..], &["oci:/another", "--", "true"]].concat(),
        125,
        &words,
    );
    crumble(&["commit", "of-the-tests", "committed:1"]);
    let arguments = ["--network", "none", "committed:1", "--", "cat", "/kept"];
    assert_eq!(stdout(&arguments), "one\n");
    crumble(&["rm", "of-the-tests"]);
    let again = [&named[..], &[&image, "--", "sh", "-c", first]].concat();
    assert_eq!(stdout(&again), "one\n");
    crumble(&["rm", "of-the-tests"]);
    crumble(&["image", "rm", "committed:1"]);
}

fn images_are_listed_and_removed() {
    // A cache of its own: other tests may be about to use what prune would remove.
    let cache = tempfile::tempdir().unwrap();
    let image = |arguments: &[&str]| {
        let mut command = image(arguments);
        command.env("XDG_CACHE_HOME", cache.path());
        command
    };
    let layout = Layout::new([Layer::busybox()], &json!({}));
    stdout_of(image(&["import", &layout.name(), "of-the-tests:1"]));
    let list = || stdout_of(image(&["ls"]));
    assert!(list().contains("of-the-tests"), "{}", list());
    let json = stdout_of(image(&["inspect", "of-the-tests:1"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json.to_string().contains("amd64"), "{json}");
    stdout_of(image(&["rm", "of-the-tests:1"]));
    assert!(!list().contains("of-the-tests"), "{}", list());
    stdout_of(image(&["prune"]));
}

fn the_root_of_an_image_is_exported_and_an_archive_is_loaded() {
    let base = Layer::new()
        .directory("d", 0o711)
        .file("d/removed", 0o644, "gone")
        .file("d/replaced", 0o644, "old")
        .entry(EntryType::Regular, "owned", (0o4751, 12345), "", b"content")
        .entry(EntryType::Link, "other-name", (0, 0), "owned", b"")
        .entry(EntryType::Char, "null", (0o666, 7), "", b"")
        .symlink("link", "owned");
    let top = Layer::new()
        .directory("d", 0o711)
        .removes("d/removed")
        .file("d/replaced", 0o600, "new");
    let layout = Layout::new([base, top], &json!({}));
    let name = "crumble.test/export:1";
    crumble(&["image", "import", &layout.name(), name]);

    let mut export = image(&["export", name]);
    let output = export.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut archive = tar::Archive::new(&output.stdout[..]);
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        let header = entry.header();
        let link = entry.link_name().unwrap();
        let link = link.map(|link| link.display().to_string());
        seen.push(format!(
            "{} {:?} {:o} {} {}{content}",
            entry.path().unwrap().display(),
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            link.unwrap_or_default(),
        ));
    }
    let expected = [
        ". Directory 755 0 ",
        "d Directory 711 0 ",
        "d/replaced Regular 600 0 new",
        "link Symlink 777 0 owned",
        "null Char 666 7 ",
        "other-name Regular 4751 12345 content",
        "owned Link 4751 12345 other-name",
    ];
    assert_eq!(seen, expected);

    let saved = image(&["save", name]).output().unwrap().stdout;
    crumble(&["image", "rm", name]);
    let mut load = image(&["load"]);
    load.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = load.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&saved).unwrap();
    let loaded = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&loaded.stdout), format!("{name}\n"));
    crumble(&["image", "rm", name]);
}

fn an_image_for_another_cpu_is_refused() {
    let layout = Layout::of([Layer::busybox()], &json!({}), "riscv64");
    fails(&[&layout.name(), "--", "true"], 125, &["riscv64"]);
}

fn a_layer_that_is_not_what_its_digest_says_is_refused() {
    // One that no other test has brought into the store.
    let layer = Layer::busybox().file("damaged", 0o644, "soon");
    let layout = Layout::new([layer], &json!({}));
    let blob = layout.largest_blob();
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    fails(&[&layout.name(), "--", "true"], 125, &["sha256:"]);
    bytes.truncate(middle);
    fs::write(&blob, &bytes).unwrap();
    fails(&[&layout.name(), "--", "true"], 125, &["sha256:"]);
}

fn an_image_that_is_not_there_is_named() {
    fails(&["oci:/no/such", "--", "true"], 125, &["/no/such"]);
    fails(&["upper/Case", "--", "true"], 2, &["Case"]);
}

fn an_init_that_is_not_there_is_named() {
    let layout = Layout::new([Layer::busybox()], &json!({}));
    let arguments = ["--init", "/no/such", &layout.name(), "--", "true"];
    fails(&arguments, 125, &["/no/such", "process 1"]);
}
