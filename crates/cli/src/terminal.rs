//! The caller's terminal, while a command of the guest has it.

use std::io;

use crumble::Size;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The size of the terminal on standard output or input, if one of them is a terminal.
pub(crate) fn size() -> Option<Size> {
    let (columns, rows) = terminal_size::terminal_size()?;
    Some(Size {
        rows: rows.0,
        columns: columns.0,
    })
}

/// A terminal in raw mode: every key goes to the guest. Dropping it restores the terminal.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Puts standard input's terminal into raw mode.
    pub(crate) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone, and then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
