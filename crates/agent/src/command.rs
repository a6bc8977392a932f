//! From a request to a process that can be started.

use std::{collections::BTreeMap, ffi::CString, os::fd::OwnedFd, path::Path};

use nix::errno::Errno;
use wire::agent::Exec;

use crate::{
    error::{Error, Result, cannot},
    spawn::{Image, Step},
    users,
};

/// Where programs are found when the request does not say.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The three standard streams of a process to be.
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Lays out the process; reads the guest's user database, and changes nothing.
pub(crate) fn image(request: &Exec, streams: Streams) -> Result<Image> {
    let user = match &request.user {
        Some(user) => Some(users::find(user, Path::new("/"))?),
        None => None,
    };
    let (name, home) = match &user {
        Some(user) => (user.name.clone(), user.home.clone()),
        None => ("root".into(), root_home()),
    };
    let environment = environment(request, &name, &home);
    let program = request.argv.first().filter(|program| !program.is_empty());
    let program = program.ok_or(Error::Invalid("the command line is empty"))?;
    let path = environment.get(&b"PATH"[..]).map_or(PATH, Vec::as_slice);
    let directories = match &request.cwd {
        Some(directory) => vec![directory.clone()],
        None => vec![home.into_bytes(), b"/".to_vec()],
    };
    Ok(Image {
        candidates: strings(candidates(program, path))?,
        argv: strings(request.argv.iter().cloned())?,
        environment: strings(
            environment
                .iter()
                .map(|(name, value)| [name.as_slice(), b"=", value.as_slice()].concat()),
        )?,
        directories: strings(directories)?,
        uid: user.as_ref().map_or(0, |user| user.uid),
        gid: user.as_ref().map_or(0, |user| user.gid),
        groups: user.map(|user| user.groups),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        terminal: request.terminal.is_some(),
    })
}

/// The paths that may be the program, in the order of `PATH`; an empty entry is the working
/// directory.
fn candidates(program: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    path.split(|byte| *byte == b':')
        .map(|directory| match directory {
            b"" => [b"./", program].concat(),
            directory => [directory, b"/", program].concat(),
        })
        .collect()
}

fn environment(request: &Exec, user: &str, home: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut environment = BTreeMap::from([
        (b"PATH".to_vec(), PATH.to_vec()),
        (b"HOME".to_vec(), home.as_bytes().to_vec()),
    ]);
    if !user.is_empty() {
        environment.insert(b"USER".to_vec(), user.as_bytes().to_vec());
    }
    if request.terminal.is_some() {
        environment.insert(b"TERM".to_vec(), b"xterm".to_vec());
    }
    environment.extend(request.env.iter().cloned());
    environment
}

/// Root's home as the guest has it.
fn root_home() -> String {
    users::find("root", Path::new("/")).map_or_else(|_| "/root".into(), |root| root.home)
}

fn strings(bytes: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<CString>> {
    bytes
        .into_iter()
        .map(|bytes| CString::new(bytes).map_err(|_| Error::Invalid("a zero byte in the request")))
        .collect()
}

/// What a failed start means to people.
pub(crate) fn explain(request: &Exec, (step, errno): (Step, Errno)) -> Error {
    let text = |bytes: Option<&Vec<u8>>| {
        String::from_utf8_lossy(bytes.map_or(&[], Vec::as_slice)).into_owned()
    };
    let program = text(request.argv.first());
    match (step, errno) {
        (Step::Execute, Errno::ENOENT) if program.contains('/') && Path::new(&program).exists() => {
            Error::NoInterpreter { program }
        }
        (Step::Execute, Errno::ENOENT | Errno::ENOTDIR) => Error::NotFound { program },
        (Step::Execute, Errno::E2BIG | Errno::ENOMEM | Errno::EAGAIN) => {
            cannot(format!("execute {program}"))(errno)
        }
        (Step::Execute, source) => Error::NotExecutable { program, source },
        (Step::Directory, _) => {
            let directory = text(request.cwd.as_ref());
            cannot(format!("change to the working directory {directory}"))(errno)
        }
        (Step::User, _) => cannot("become the user")(errno),
        (Step::Streams, _) => cannot("set up the command's streams")(errno),
        (Step::Fork, _) => cannot("fork")(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(program: &str, path: &str) -> Vec<String> {
        candidates(program.as_bytes(), path.as_bytes())
            .into_iter()
            .map(|candidate| String::from_utf8(candidate).unwrap())
            .collect()
    }

    #[test]
    fn a_program_with_a_slash_is_itself() {
        assert_eq!(found("./x", "/bin"), ["./x"]);
        assert_eq!(found("/a/x", "/bin"), ["/a/x"]);
    }

    #[test]
    fn a_program_without_a_slash_is_tried_in_every_directory_in_order() {
        assert_eq!(found("x", "/a:b:/c/"), ["/a/x", "b/x", "/c//x"]);
    }

    #[test]
    fn an_empty_entry_is_the_working_directory() {
        assert_eq!(found("x", ":/a::"), ["./x", "/a/x", "./x", "./x"]);
        assert_eq!(found("x", ""), ["./x"]);
    }
}
