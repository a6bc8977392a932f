//! The compiler of tables, as the build runs it: mistakes are found and their place is named.

#[path = "../build/emit.rs"]
mod emit;

use std::fs;
use std::path::Path;

use policy_table::{Table, directory, filters};

/// A table that has everything.
const COMPLETE: &str = r#"
summary = "a test"
[identity]
kind = "single"
why = "a reason"
[landlock]
floor = { value = 1, why = "a reason" }
[namespaces]
user = "a reason"
[calls]
clone3 = { error = "ENOSYS", why = "a reason" }
read = "a reason"
"#;

/// Compiles `COMPLETE` with `more` lines of system calls, to Rust source.
fn compile(more: &str) -> Result<String, String> {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("x.toml"), format!("{COMPLETE}{more}\n")).unwrap();
    let table = read(place.path(), "x")?;
    let compiled = filters(&table, "x86_64", false)?;
    Ok(emit::policy("x-y", &table, &compiled, "x86_64")? + &emit::index(&["x-y"]))
}

/// Reads `COMPONENT.toml` in a directory.
fn read(place: &Path, component: &str) -> Result<Table, String> {
    policy_table::read(&format!("{component}.toml"), &directory(place))
}

/// The line of the first system call in `more`.
const LINE: usize = 13;

fn complaint(more: &str) -> String {
    compile(more).map(drop).unwrap_err()
}

#[test]
fn a_complete_table_becomes_constants() {
    let source = compile("[limits]\nnofile = { value = 7, why = \"files\" }").unwrap();
    for part in [
        "static X_Y: Policy = Policy {",
        "Limit { resource: Resource::Nofile, most: 7 }, why: \"files\"",
        "identity: Reasoned { value: Identity::Single, why: \"a reason\" }",
        "error: Some(\"ENOSYS\")",
        "static ALL: &[&Policy] = &[&X_Y];",
    ] {
        assert!(source.contains(part), "{part} is missing from {source}");
    }
}

#[test]
fn an_unknown_system_call_is_named_with_file_and_line() {
    let text = complaint("reed = \"a reason\"");
    assert_eq!(
        text,
        format!("x.toml:{LINE}: unknown system call `reed` on x86_64")
    );
}

#[test]
fn a_call_of_another_architecture_is_named_unless_it_says_so() {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    for component in [
        "vmm",
        "dev-fs",
        "dev-vsock",
        "dev-net",
        "dev-block",
        "dev-console",
        "dev-balloon",
        "dialer",
        "unpack",
    ] {
        let table = read(&policies, component).unwrap();
        for architecture in ["x86_64", "aarch64"] {
            filters(&table, architecture, false).unwrap();
        }
    }
    let place = tempfile::tempdir().unwrap();
    fs::write(
        place.path().join("x.toml"),
        format!("{COMPLETE}poll = \"x\""),
    )
    .unwrap();
    let table = read(place.path(), "x").unwrap();
    assert!(filters(&table, "x86_64", false).is_ok());
    let text = filters(&table, "aarch64", false).map(drop).unwrap_err();
    assert_eq!(
        text,
        format!("x.toml:{LINE}: unknown system call `poll` on aarch64")
    );
}

#[test]
fn a_line_without_a_reason_is_named() {
    let text = complaint("close = \" \"");
    assert_eq!(text, format!("x.toml:{LINE}: a line without a reason"));
}

#[test]
fn a_condition_that_does_not_parse_is_named() {
    for condition in [
        "arg9 == 1",
        "arg0 = 1",
        "arg0 == NONSENSE",
        "arg0 & 1",
        "0 == arg0",
        "",
    ] {
        let text = complaint(&format!(
            "close = {{ when = [\"{condition}\"], why = \"x\" }}"
        ));
        assert_eq!(
            text,
            format!("x.toml:{LINE}: `{condition}` is not a condition")
        );
    }
}

#[test]
fn a_call_that_is_there_twice_is_named_with_its_line() {
    let text = complaint("close = \"a\"\nclose = \"b\"");
    assert!(
        text.starts_with(&format!("x.toml:{}: ", LINE + 1)),
        "{text}"
    );
}

#[test]
fn fields_that_do_not_exist_are_refused() {
    for line in [
        "close = { wenn = [], why = \"x\" }",
        "close = { when = [] }",
        "[limits]\nnofile = { value = 1, why = \"x\", unit = \"y\" }",
        "[nonsense]",
    ] {
        let text = complaint(line);
        assert!(text.starts_with("x.toml:1"), "{text}");
    }
}

#[test]
fn an_error_with_a_condition_is_refused() {
    let text = complaint("close = { error = \"ENOSYS\", when = [\"arg0 == 1\"], why = \"x\" }");
    assert!(text.contains("exclude each other"), "{text}");
    let text = complaint("close = { error = \"EFANTASY\", why = \"x\" }");
    assert!(text.contains("unknown error `EFANTASY`"), "{text}");
}

#[test]
fn a_table_without_a_section_is_refused() {
    let place = tempfile::tempdir().unwrap();
    for section in ["summary", "identity", "landlock", "namespaces", "calls"] {
        let text = COMPLETE.replacen(section, "include = []\n#", 1);
        // Without the section's head, its lines belong nowhere or to another; either is refused.
        fs::write(place.path().join("x.toml"), text).unwrap();
        assert!(read(place.path(), "x").is_err(), "{section}");
    }
}

#[test]
fn files_that_include_each_other_are_refused() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("x.toml"), "include = [\"x.toml\"]").unwrap();
    let text = read(place.path(), "x").map(drop).unwrap_err();
    assert_eq!(text, "x.toml: files include each other");
}

#[test]
fn a_namespace_of_an_included_file_is_left_out_with_its_reason() {
    let place = tempfile::tempdir().unwrap();
    let common = COMPLETE.replace("[namespaces]", "[namespaces]\nnet = \"a reason\"");
    fs::write(place.path().join("common.toml"), common).unwrap();
    let shared = |lines: &str| {
        let text = format!("include = [\"common.toml\"]\n[shared]\n{lines}");
        fs::write(place.path().join("x.toml"), text).unwrap();
        read(place.path(), "x")
    };
    let table = shared("net = \"a reason\"").unwrap();
    assert!(!table.namespaces.contains_key("net"));
    assert_eq!(table.shared["net"].value, "a reason");
    for (lines, what) in [
        ("net = \" \"", "a line without a reason"),
        (
            "uts = \"a reason\"",
            "`uts` is no namespace of an included file",
        ),
        ("user = \"a reason\"", "the user namespace cannot be shared"),
    ] {
        let text = shared(lines).map(drop).unwrap_err();
        assert!(
            text.starts_with("x.toml:3: ") && text.contains(what),
            "{text}"
        );
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    let text = read(Path::new("/nonexistent"), "x").map(drop).unwrap_err();
    assert!(text.contains("/nonexistent/x.toml"), "{text}");
}
