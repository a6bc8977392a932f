//! Packages of the distribution, fetched through apt without root, unpacked and never installed.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// Downloads one package and unpacks it into `tree`; returns its file's name without the suffix,
/// which names its exact version. `work` is a directory for the archive.
///
/// # Errors
/// Says which command failed and why.
pub fn unpack(package: &str, work: &Path, tree: &Path) -> Result<String> {
    // As root, apt would want to download as another user, who may not write here.
    let arguments = ["-q", "-o", "APT::Sandbox::User=root", "download", package];
    command("apt-get", &arguments, work)?;
    let archive = first_entry(work, &format!("{package}_")).ok_or_else(|| Error::Package {
        package: package.to_owned(),
        what: "archive",
    })?;
    let (from, to) = (archive.to_string_lossy(), tree.to_string_lossy());
    command("dpkg-deb", &["-x", &from, &to], work)?;
    let stem = archive.file_stem().unwrap_or_default();
    Ok(stem.to_string_lossy().into_owned())
}

pub(crate) fn first_entry(directory: &Path, prefix: &str) -> Option<PathBuf> {
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
}

/// Runs a command and returns what it prints, in untranslated English.
pub(crate) fn command(program: &str, arguments: &[&str], directory: &Path) -> Result<String> {
    let failed = |reason: String| Error::Command {
        command: format!("{program} {}", arguments.join(" ")),
        reason,
    };
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("LC_ALL", "C")
        .env(
            "PATH",
            env::var_os("PATH").unwrap_or("/usr/bin:/bin".into()),
        )
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoApt,
            _ => failed(error.to_string()),
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rev().find(|line| !line.trim().is_empty());
    Err(failed(last.unwrap_or("it gave no reason").to_owned()))
}
