//! Tests in namespaces of their own: users (root is whoever tests), mounts, and network.

use std::{env, process::Command};

const INSIDE: &str = "CRUMBLE_TEST_INSIDE";

/// Runs `body`, the rest of the test `name`, in a process with such namespaces.
pub(crate) fn inside(name: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "yes")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(
        text.contains("1 passed"),
        "no test is called {name}: {text}"
    );
}
