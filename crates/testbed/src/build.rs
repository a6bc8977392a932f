//! The product's binaries, as they are released.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Error, Result, file},
    place::{built, workspace},
};

/// Static binaries need nothing of the machine they run on.
#[cfg(target_arch = "x86_64")]
pub const TARGET: &str = "x86_64-unknown-linux-musl";
/// As for x86-64.
#[cfg(target_arch = "aarch64")]
pub const TARGET: &str = "aarch64-unknown-linux-musl";

/// A binary and the package that it is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// The cargo package.
    pub package: &'static str,
    /// The file's name.
    pub binary: &'static str,
    /// Whether users get it; the others are for developers.
    pub shipped: bool,
}

const fn product(package: &'static str, binary: &'static str, shipped: bool) -> Product {
    Product {
        package,
        binary,
        shipped,
    }
}

/// Everything that [`build`] builds. The binaries find each other in one directory.
pub const PRODUCTS: &[Product] = &[
    product("cli", "crumble", true),
    product("vmm", "crumble-vmm", true),
    product("dev-fs", "crumble-dev-fs", true),
    product("dev-vsock", VSOCK, true),
    product("dev-net", "crumble-dev-net", true),
    product("dev-block", "crumble-dev-block", true),
    product("dev-console", "crumble-dev-console", true),
    product("dev-balloon", "crumble-dev-balloon", true),
    product("dialer", "crumble-dialer", true),
    product("unpack", "crumble-unpack", true),
    product("agent", AGENT, true),
    product("crumble-jailer", "crumble-jailer", true),
    product("quest", "quest", false),
    product("testbed", KEEPER, false),
];

/// The vsock device.
pub(crate) const VSOCK: &str = "crumble-dev-vsock";
/// The init of guests.
pub(crate) const AGENT: &str = "crumble-agent";
/// The process that owns the box.
pub(crate) const KEEPER: &str = "testbed";

/// What the box itself is made of.
const PARTS: [&str; 3] = [KEEPER, VSOCK, AGENT];

/// Builds these products in release mode for [`TARGET`], and returns where they are. Cargo speaks
/// to the user directly, and only when there is something to do.
///
/// # Errors
/// [`Error::Cargo`] if the build fails.
pub fn build(products: impl IntoIterator<Item = Product>) -> Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace())
        .args(["build", "--quiet", "--release", "--target", TARGET]);
    for product in products {
        cargo.args(["--package", product.package]);
    }
    // What cargo sets for the program that it runs is not meant for the builds that this starts.
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(key);
        }
    }
    let status = cargo.status().map_err(|source| Error::Spawn {
        program: "cargo".into(),
        source,
    })?;
    if !status.success() {
        let command = format!("{cargo:?}").replace('"', "");
        return Err(Error::Cargo { command, status });
    }
    Ok(built())
}

/// Identifies the contents of the binaries that make the box.
pub(crate) fn identity(bin_dir: &Path) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    for part in PARTS {
        let path = bin_dir.join(part);
        let content = std::fs::read(&path).map_err(file("read", &path))?;
        hasher.update(&content);
    }
    Ok(*hasher.finalize().as_bytes())
}
