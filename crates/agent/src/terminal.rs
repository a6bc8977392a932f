//! A terminal for a command.

use std::os::fd::{AsFd, OwnedFd};

use nix::{
    fcntl::{OFlag, open},
    pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::stat::Mode,
};
use wire::agent::Size;

use crate::{
    error::{Result, cannot},
    sys,
};

/// Makes a terminal of this size: its master, which does not block, and its slave.
pub(crate) fn open_pair(size: Size) -> Result<(PtyMaster, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags | OFlag::O_NONBLOCK).map_err(cannot("open /dev/ptmx"))?;
    grantpt(&master).map_err(cannot("grant a terminal"))?;
    unlockpt(&master).map_err(cannot("unlock a terminal"))?;
    let name = ptsname_r(&master).map_err(cannot("name a terminal"))?;
    let slave =
        open(name.as_str(), flags, Mode::empty()).map_err(cannot(format!("open {name}")))?;
    sys::set_terminal_size(slave.as_fd(), size).map_err(cannot("set a terminal's size"))?;
    Ok((master, slave))
}
