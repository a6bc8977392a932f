//! The archives that the guest's kernel unpacks as its first root.

use std::{
    fs,
    path::{Path, PathBuf},
};

use wire::agent::{MODULES_PATH, SETUP_PATH, Setup};

use crate::{
    Cache, Kernel, USEFUL_MODULES,
    cpio::Archive,
    error::{Result, file},
    modules::{Module, Tree},
};

/// Where the agent mounts and looks before there is another root.
const DIRECTORIES: &[(&str, u32)] = &[
    ("crumble", 0o755),
    ("crumble/ko", 0o755),
    ("dev", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("root", 0o700),
];

/// The initramfs for machines with this kernel: `agent` as `/init`, and the `wanted` modules (see
/// [`crate::MACHINE_MODULES`]) with what they need. A kernel without a modules directory is taken
/// to have everything built in. Cached by content: the same inputs give the same path.
///
/// # Errors
/// If the agent or a module cannot be read, a module is missing, or the cache not written.
pub fn initramfs(kernel: &Kernel, agent: &Path, wanted: &[&str], cache: &Cache) -> Result<PathBuf> {
    let init = fs::read(agent).map_err(file("read the agent", agent))?;
    let mut modules = match &kernel.modules {
        Some(directory) => {
            let tree = Tree::open(directory)?;
            let useful = USEFUL_MODULES.iter().filter(|name| tree.has(name));
            let all: Vec<&str> = wanted.iter().chain(useful).copied().collect();
            tree.load_order(&all)?
        }
        None => Vec::new(),
    };
    if !kernel.keep_signatures {
        // A quarter of the time that loading takes, for a check of what we just packed. The price
        // is a kernel that calls itself tainted (by an unsigned module).
        modules.iter_mut().for_each(Module::remove_signature);
    }
    let archive = pack(&init, &modules)?;
    let name = format!("{}.cpio", blake3::hash(&archive).to_hex());
    let path = cache.root().join("initramfs").join(name);
    let whole = fs::metadata(&path).is_ok_and(|found| found.len() == archive.len() as u64);
    if !whole {
        Cache::write(&path, &archive)?;
    }
    Ok(path)
}

fn pack(init: &[u8], modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for (name, mode) in DIRECTORIES {
        archive.directory(name, *mode)?;
    }
    // The kernel opens it for init before anything is mounted.
    archive.character_device("dev/console", 0o600, (5, 1))?;
    // Rust's start-up code opens it in place of standard streams that are closed, as they are
    // where there is no console.
    archive.character_device("dev/null", 0o666, (1, 3))?;
    let mut list = String::new();
    for module in modules {
        let name = format!("crumble/ko/{}.ko", module.name);
        archive.file(&name, 0o644, &module.content)?;
        list.push('/');
        list.push_str(&name);
        list.push('\n');
    }
    archive.file(MODULES_PATH.trim_start_matches('/'), 0o644, list.as_bytes())?;
    archive.file("init", 0o755, init)?;
    archive.finish()
}

/// The archive to append to the [`initramfs()`]: what this machine's agent is to set up.
///
/// # Errors
/// [`crate::Error::Setup`] if it exceeds the size of a message.
pub fn setup_archive(setup: &Setup) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    let name = SETUP_PATH.trim_start_matches('/');
    archive.file(name, 0o600, &wire::encode(setup)?)?;
    archive.finish()
}
