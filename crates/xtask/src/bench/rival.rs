//! Machines that are compared: ours, and QEMU's with the same kernel and the same root.

use std::path::Path;

use crumble::{Builder, Machine, Stats};
use testbed::{Command, Design};

use super::traffic;
use crate::error::{Error, Result};

/// Memory of each, in MiB.
pub(super) const MEMORY: u64 = 512;

/// More than anything takes that is run in them, in seconds.
const LIMIT: &str = "120";

/// A machine that is up. Its root is this host's, without what is mounted in it.
#[derive(Debug)]
pub(super) enum Rival {
    Ours(Machine),
    Qemu(testbed::Machine),
}

impl Rival {
    /// A machine of ours, described by `and`.
    pub(super) fn ours(
        bin_dir: &Path,
        and: impl FnOnce(Builder) -> Result<Builder>,
    ) -> Result<Self> {
        let builder = Machine::builder(traffic::parse("host")?)
            .memory(traffic::parse(&format!("{MEMORY}M"))?)
            .programs(bin_dir);
        Ok(Self::Ours(and(builder)?.start().map_err(traffic::failed)?))
    }

    /// A machine of QEMU's.
    pub(super) fn qemu(design: &Design<'_>) -> Result<Self> {
        Ok(Self::Qemu(testbed::Machine::boot(design)?))
    }

    pub(super) const fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }

    /// Our VMM's counters.
    pub(super) fn stats(&self) -> Result<Option<Stats>> {
        match self {
            Self::Ours(machine) => Ok(Some(machine.stats().map_err(traffic::failed)?)),
            Self::Qemu(_) => Ok(None),
        }
    }

    /// Runs a command in it that must succeed, and returns what it says.
    pub(super) fn run(&self, command: &[&str]) -> Result<String> {
        let command = [&["timeout", LIMIT], command].concat();
        let (code, stdout, stderr) = match self {
            Self::Ours(machine) => {
                let (program, arguments) = command.split_first().unwrap_or((&"", &[]));
                let mut command = machine.command(program);
                let output = command.args(arguments).output().map_err(traffic::failed)?;
                let code = output.status.code().unwrap_or(1);
                (code, output.stdout, output.stderr)
            }
            Self::Qemu(machine) => {
                let mut command = Command::new(&command);
                let output = command.current_dir("/").output_from(&machine.agent()?)?;
                (output.code, output.stdout, output.stderr)
            }
        };
        let said = String::from_utf8_lossy(&stdout).into_owned();
        if code == 0 {
            return Ok(said);
        }
        Err(Error::Measure {
            what: command.join(" "),
            why: format!("{code}: {said}{}", String::from_utf8_lossy(&stderr)),
        })
    }
}
