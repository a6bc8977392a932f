//! What the box needs of the distribution.

use std::{
    env,
    path::{Path, PathBuf},
};

/// A program that the box needs, and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// A name that is looked up in `PATH`, or a path.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
}

/// The emulator.
pub(crate) const QEMU: Tool = Tool {
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
};

/// The server of the box's file systems.
pub(crate) const VIRTIOFSD: Tool = Tool {
    program: "/usr/lib/qemu/virtiofsd",
    package: "qemu-system-common",
};

/// QEMU's firmware, which its package only recommends.
const FIRMWARE: Tool = Tool {
    program: "/usr/share/seabios/bios-256k.bin",
    package: "seabios",
};

/// Ties the life of a process to that of its parent.
pub(crate) const SETPRIV: Tool = Tool {
    program: "setpriv",
    package: "util-linux",
};

/// A virtiofsd run by an ordinary user needs a user namespace.
pub(crate) const UNSHARE: Tool = Tool {
    program: "unshare",
    package: "util-linux",
};

/// What the box needs and this host does not have.
#[must_use]
pub fn missing() -> Vec<Tool> {
    [QEMU, VIRTIOFSD, FIRMWARE, SETPRIV, UNSHARE]
        .into_iter()
        .filter(|tool| find(tool.program).is_none())
        .collect()
}

/// Looks a program up as a shell does.
fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        let path = Path::new(program);
        return path.is_file().then(|| path.to_owned());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_name_and_by_path() {
        let sh = find("sh").unwrap();
        assert_eq!(find(&sh.to_string_lossy()), Some(sh));
    }

    #[test]
    fn a_program_that_is_not_there_is_missed() {
        assert_eq!(find("no-such-program"), None);
        assert_eq!(find("/no/such/program"), None);
    }
}
