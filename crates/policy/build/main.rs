//! Turns the tables in `policies/` into Rust constants, with their seccomp filters compiled.

mod emit;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

/// The components, each with a file of its name.
const COMPONENTS: [&str; 9] = [
    "vmm",
    "dev-fs",
    "dev-vsock",
    "dev-net",
    "dev-block",
    "dev-console",
    "dev-balloon",
    "dialer",
    "unpack",
];

/// The CPU architectures that every policy must compile for.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

fn main() -> ExitCode {
    let result = run();
    let mut out = io::stdout().lock();
    let failed = match &result {
        Ok(()) => writeln!(out, "cargo::rerun-if-changed=policies"),
        Err(error) => writeln!(out, "cargo::error={error}"),
    };
    if failed.is_err() || result.is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Compiles every policy and writes the constants.
fn run() -> Result<(), String> {
    let target = variable("CARGO_CFG_TARGET_ARCH")?;
    let directory = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("policies");
    let load = policy_table::directory(&directory);
    let mut source = String::new();
    for component in COMPONENTS {
        let table = policy_table::read(&format!("{component}.toml"), &load)?;
        if let Some((path, entry)) = table.paths.first_key_value() {
            let place = &entry.place;
            return Err(format!(
                "{place}: `{path}`: a component's resources arrive open"
            ));
        }
        let mut filters = None;
        for architecture in ARCHITECTURES {
            let compiled = policy_table::filters(&table, architecture, false)?;
            if architecture == target {
                filters = Some(compiled);
            }
        }
        let filters = filters.ok_or_else(|| {
            format!("no system-call filters exist for {target}, only for {ARCHITECTURES:?}")
        })?;
        source += &emit::policy(component, &table, &filters, &target)?;
    }
    source += &emit::index(&COMPONENTS);
    let output = PathBuf::from(variable("OUT_DIR")?).join("policies.rs");
    fs::write(&output, source)
        .map_err(|error| format!("cannot write {}: {error}", output.display()))
}

/// A variable that cargo sets.
fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
