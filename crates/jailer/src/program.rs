//! A program of somebody else's, which knows nothing of the jail: it is closed around it from
//! inside, and then the program is executed.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::{fs, io, ptr};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use policy::{Namespace, Policy};

use crate::inside::{self, Access, Grant};
use crate::sys::{self, Configure};
use crate::{Error, Result, outside};

/// A program to execute in the jail.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its file, opened for reading or with `O_PATH`; closed by the execution.
    pub file: OwnedFd,
    /// Its arguments, the first of which is its own name.
    pub argv: &'a [CString],
    /// Its environment, as `NAME=value`.
    pub env: &'a [CString],
    /// What it sees of the host's file tree, by absolute path; there is nothing else.
    pub paths: &'a [(CString, Access)],
    /// Its descriptors above the three standard ones, and their numbers; it has no others.
    pub descriptors: &'a [(OwnedFd, RawFd)],
}

/// Closes the jail around this process, which must have one thread, and executes a program in it.
/// The policy must allow the `execveat` of its file.
///
/// # Errors
/// It returns only if it fails; the process is then in an undefined state and must end.
pub fn execute(policy: &'static Policy, program: &Program<'_>) -> Error {
    match steps(policy, program) {
        Ok(error) => {
            let hint = match error.raw_os_error() {
                Some(libc::ENOENT) => "; its loader is not below the policy's paths",
                Some(libc::EACCES) => "; its loader is not below a path for `execute`",
                Some(libc::ENOEXEC) => "; it is a script, or not a program for this machine",
                _ => "",
            };
            Error::Confine("execute the program", hint, error)
        }
        Err(error) => error,
    }
}

fn steps(policy: &'static Policy, program: &Program<'_>) -> Result<io::Error> {
    inside::have_one_thread()?;
    let trees = trees(program.paths)?;
    enter_root(program.paths, &trees).map_err(|error| {
        Error::Confine("make a root directory of the policy's paths", "", error)
    })?;
    inside::drop_capabilities(policy)?;
    inside::gain_no_privileges()?;
    let file = Grant {
        fd: program.file.as_fd(),
        access: Access::Execute,
    };
    let granted = trees.iter().zip(program.paths);
    let granted = granted.map(|(tree, (_, access))| Grant {
        fd: tree.as_fd(),
        access: *access,
    });
    let grants: Vec<_> = granted.chain([file]).collect();
    // A policy of this kind names no ports.
    let ports = if shares_network(policy) {
        None
    } else {
        Some(&[][..])
    };
    inside::restrict(policy, &grants, ports)?;
    let pointers = [program.argv, program.env].map(pointers);
    sys::close_from_at_exec(3)
        .and_then(|()| {
            program
                .descriptors
                .iter()
                .try_for_each(|(fd, number)| sys::place_descriptor(fd.as_raw_fd(), *number))
        })
        .map_err(|error| Error::Confine("place the program's descriptors", "", error))?;
    // Last, for what comes before may need more than the program does.
    outside::set_limits(policy, 0)?;
    inside::filter_calls(policy)?;
    let [argv, env] = &pointers;
    Ok(sys::execute(program.file.as_raw_fd(), argv, env))
}

fn shares_network(policy: &Policy) -> bool {
    let mut shared = policy.shared.iter().map(|line| line.value);
    shared.any(|namespace| namespace == Namespace::Net)
}

/// Strings as exec wants them: pointers with a null at the end.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let ends = [ptr::null()];
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain(ends)
        .collect()
}

/// A mount of each path's own, limited to its access.
fn trees(paths: &[(CString, Access)]) -> Result<Vec<OwnedFd>> {
    let tree = |(path, access): &(CString, Access)| {
        let tree = sys::clone_tree(path)?;
        let (read_only, execute) = (*access != Access::ReadWrite, *access == Access::Execute);
        sys::restrict_mounts(tree.as_fd(), read_only, execute)?;
        Ok(tree)
    };
    let named = |path: &(CString, Access)| {
        tree(path).map_err(|source| Error::Path {
            path: path.0.to_string_lossy().into_owned(),
            source,
        })
    };
    paths.iter().map(named).collect()
}

/// Replaces the root directory by one that has these paths and cannot be written.
fn enter_root(paths: &[(CString, Access)], trees: &[OwnedFd]) -> io::Result<()> {
    let fs = sys::open_file_system(c"tmpfs")?;
    sys::configure(fs.as_fd(), Configure::Value(c"size", c"1M"))?;
    sys::configure(fs.as_fd(), Configure::Value(c"mode", c"0555"))?;
    sys::configure(fs.as_fd(), Configure::Create)?;
    let root = sys::mount_detached(fs.as_fd(), 0)?;
    for (path, _) in paths {
        make_place(&root, path)?;
    }
    sys::restrict_mounts(root.as_fd(), true, false)?;
    sys::attach_on_root(root.as_fd())?;
    nix::unistd::fchdir(&root)?;
    for ((path, _), tree) in paths.iter().zip(trees) {
        sys::attach(tree.as_fd(), &relative(path)?)?;
    }
    sys::pivot_into_working_directory()?;
    Ok(nix::unistd::chdir("/")?)
}

/// Makes something below `root` to mount `path` on: a directory, or a file for a file.
fn make_place(root: &OwnedFd, path: &CStr) -> io::Result<()> {
    let text = path.to_str().map_err(io::Error::other)?;
    let is_directory = fs::metadata(text)?.is_dir();
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    let mut so_far = String::new();
    for (index, part) in parts.iter().enumerate() {
        so_far.push_str(part);
        let last = parts.len() == index.saturating_add(1);
        let made = match last && !is_directory {
            true => {
                let flags = OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
                openat(root, so_far.as_str(), flags, Mode::S_IRUSR).map(drop)
            }
            false => mkdirat(root, so_far.as_str(), Mode::from_bits_truncate(0o555)),
        };
        match made {
            Err(nix::errno::Errno::EEXIST) => {}
            other => other?,
        }
        so_far.push('/');
    }
    Ok(())
}

/// An absolute path from the root directory as the working directory.
fn relative(path: &CStr) -> io::Result<CString> {
    let bytes = path.to_bytes();
    let start = bytes.iter().position(|byte| *byte != b'/');
    let rest = start.and_then(|start| bytes.get(start..));
    CString::new(rest.unwrap_or(b".")).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_from_the_root() {
        assert_eq!(relative(c"/usr/lib").unwrap().as_c_str(), c"usr/lib");
        assert_eq!(relative(c"//etc").unwrap().as_c_str(), c"etc");
        assert_eq!(relative(c"/").unwrap().as_c_str(), c".");
    }
}
