//! What the processes of a device leave to their successors.

use std::os::fd::OwnedFd;

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
    unistd::ftruncate,
};

use crate::{Error, machine::system};

/// An empty journal of so many bytes, which nobody can shorten. It takes memory where it is written.
pub(crate) fn journal(size: u64) -> Result<OwnedFd, Error> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let make = || {
        let file = memfd_create("journal", flags)?;
        ftruncate(&file, size.try_into().unwrap_or(0))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(file)
    };
    make().map_err(|errno: nix::Error| system("make a file of memory")(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_has_its_size_and_cannot_be_shortened() {
        let journal = journal(8192).unwrap();
        ftruncate(&journal, 4096).unwrap_err();
        let file = std::fs::File::from(journal);
        assert_eq!(file.metadata().unwrap().len(), 8192);
    }
}
