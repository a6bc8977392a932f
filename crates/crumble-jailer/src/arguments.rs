//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;

/// Run a program in a jail: namespaces of its own, a root directory with only the policy's paths,
/// no capabilities, Landlock, limits, and a list of the system calls that it may make. Whatever the
/// policy does not list is forbidden; a system call that it does not list ends the program with
/// SIGSYS.
///
/// The program gets the three standard descriptors and those that are asked for here. Its
/// environment is what --env says. It ends when crumble-jailer does.
#[derive(Debug, Parser)]
#[command(name = "crumble-jailer", version, after_help = AFTER)]
pub(crate) struct Arguments {
    /// The policy, a TOML file; `include = ["program.toml"]` in it has what every program needs.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// A descriptor: NUMBER=listen:PATH, read:PATH, write:PATH or directory:PATH.
    #[arg(long = "fd", value_name = "NUMBER=KIND:PATH")]
    pub(crate) fds: Vec<Descriptor>,
    /// A variable of the program's environment.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<OsString>,
    /// Write what the policy forbids to the kernel's log and allow it: to find out what a program
    /// needs. Only system calls; paths and capabilities stay forbidden.
    #[arg(long)]
    pub(crate) trace: bool,
    /// Print the policy as a table and start nothing.
    #[arg(long)]
    pub(crate) print: bool,
    /// The program and its arguments. Without `/`, it is looked up in PATH.
    #[arg(
        required_unless_present = "print",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    pub(crate) program: Vec<OsString>,
}

const AFTER: &str = "\
Example, a vhost-user back end of another project:
  crumble-jailer --policy virtiofsd.toml --fd 3=listen:/run/fs.sock \\
      -- /usr/libexec/virtiofsd --fd=3 --sandbox=none --shared-dir=/srv

Exit codes: the program's own; 128 and the number of the signal that ended it (159: SIGSYS, a system
call that the policy forbids); 125 if it was not started, with the reason.";

/// What a descriptor is opened as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    Listen,
    Read,
    Write,
    Directory,
}

/// A descriptor to pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) number: i32,
    pub(crate) open: Open,
    pub(crate) path: PathBuf,
}

impl FromStr for Descriptor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || "a descriptor is NUMBER=KIND:PATH, as in 3=listen:/run/x.sock".to_owned();
        let (number, rest) = text.split_once('=').ok_or_else(shape)?;
        let (kind, path) = rest.split_once(':').ok_or_else(shape)?;
        let number = number.parse().map_err(|_| shape())?;
        if !(3..=63).contains(&number) {
            return Err("a descriptor's number is 3 to 63".to_owned());
        }
        let open = match kind {
            "listen" => Open::Listen,
            "read" => Open::Read,
            "write" => Open::Write,
            "directory" => Open::Directory,
            _ => return Err("the kind is listen, read, write or directory".to_owned()),
        };
        let path = path.into();
        Ok(Self { number, open, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_a_number_a_kind_and_a_path() {
        let parsed: Descriptor = "3=listen:/run/a:b=c".parse().unwrap();
        assert_eq!((parsed.number, parsed.open), (3, Open::Listen));
        assert_eq!(parsed.path, PathBuf::from("/run/a:b=c"));
        for wrong in [
            "",
            "3",
            "3=listen",
            "2=read:/x",
            "64=read:/x",
            "x=read:/x",
            "3=see:/x",
        ] {
            assert!(wrong.parse::<Descriptor>().is_err(), "{wrong}");
        }
    }
}
