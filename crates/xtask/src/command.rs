//! Other programs.

use std::{
    env,
    ffi::OsStr,
    process::{Command, Output},
};

use crate::error::{Error, Result};

/// `cargo` with these arguments, in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = program(
        env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        arguments,
    );
    cargo.current_dir(testbed::workspace());
    // What cargo set for this very program would make the other packages look changed.
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(key);
        }
    }
    cargo
}

/// A program with these arguments.
pub(crate) fn program(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs it to its end; its exit code, 1 if a signal ended it.
pub(crate) fn exit_code(command: &mut Command) -> Result {
    let status = command.status().map_err(|source| Error::Start {
        command: words(command),
        source,
    })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(1))
}

/// Runs it to its end.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    match exit_code(command)? {
        0 => Ok(()),
        code => Err(Error::Failed {
            command: words(command),
            status: format!("exit code {code}"),
        }),
    }
}

/// Runs it to its end and returns what it says on stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, .. } = command.output().map_err(|source| Error::Start {
        command: words(command),
        source,
    })?;
    if !status.success() {
        return Err(Error::Failed {
            command: words(command),
            status: status.to_string(),
        });
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// The command line, for people.
pub(crate) fn words(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_passed_on() {
        assert_eq!(exit_code(&mut program("sh", &["-c", "exit 7"])).unwrap(), 7);
        assert_eq!(
            exit_code(&mut program("sh", &["-c", "kill -9 $$"])).unwrap(),
            1
        );
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = succeed(&mut program("sh", &["-c", "exit 7"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 7` failed (exit code 7)");
    }
}
