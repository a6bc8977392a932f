//! Tests that need a network, or files, that are not this host's.

use std::process::Command;

/// Runs the ignored test called `test`, in a user, network and mount namespace of its own that the
/// shell's `prepare` has made ready. What that puts into `$AS` runs the test's program.
#[track_caller]
pub(crate) fn in_a_namespace(test: &str, prepare: &str) {
    let script = format!("{prepare} && exec $AS \"$0\" --exact --ignored {test}");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .args(["sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
