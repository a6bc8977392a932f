//! Kernel modules from the initramfs.

use std::fs::{self, File};

use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
};
use wire::agent::MODULES_PATH;

use crate::error::{Error, Result, cannot, errno};

/// Loads the listed modules in their order. No list, no modules: everything is built in.
pub(crate) fn load() -> Result<()> {
    let Ok(list) = fs::read_to_string(MODULES_PATH) else {
        return Ok(());
    };
    list.lines().try_for_each(load_one)
}

fn load_one(path: &str) -> Result<()> {
    let failed = |errno| -> Error { cannot(format!("load the kernel module {path}"))(errno) };
    let file = File::open(path).map_err(|error| failed(errno(&error)))?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}
